#include "support/named_memory.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "brood/error.hpp"
#include "support/time.hpp"

namespace brood::test {

namespace {

// The same in all processes that are forked from this program.
const std::string the_prefix = "brood-test-" + std::to_string(getpid()) + "-";

}  // namespace

std::string unique_name() {
  static std::atomic<int> count{0};
  return the_prefix + std::to_string(getpid()) + "-" + std::to_string(count.fetch_add(1));
}

bool is_unique(const std::string& name) { return name.starts_with(the_prefix); }

bool is_automatic(const std::string& name) {
  return name.size() == 12 && name.starts_with("psm_") &&
         name.find_first_not_of("0123456789abcdef", 4) == std::string::npos;
}

std::string shm_path(const std::string& name) { return "/dev/shm/" + name; }

bool has_name(const std::string& name) {
  return std::filesystem::exists(std::filesystem::symlink_status(shm_path(name)));
}

bool is_gone_soon(const std::string& name) {
  return wait_until([&] { return !has_name(name); }, kPromisedSecond);
}

std::set<std::string> names_in_shm() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (is_unique(name) || is_automatic(name)) names.insert(name);
  }
  return names;
}

long blocks_of(const std::string& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0 ? info.st_blocks : -1;
}

int error_number_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const SystemError& e) {
    return e.code().value();
  }
  return 0;
}

PythonRun run_python(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {BROOD_PYTHON, "-c", program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe for Python");
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], STDOUT_FILENO);
    // Its tracker complains of what it believes to be leaks.
    dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
    execv(BROOD_PYTHON, argv.data());
    _exit(127);
  }
  close(ends[1]);
  PythonRun run;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
    run.out.append(buffer, static_cast<std::size_t>(got));
  }
  close(ends[0]);
  if (pid > 0) waitpid(pid, &run.status, 0);
  return run;
}

}  // namespace brood::test
