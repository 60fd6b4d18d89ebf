#include "support/processes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "support/time.hpp"

namespace brood::test {

// Not by a stream: reading what belongs to a process that has just ended is an error, which streams
// throw.
std::string read_file(const std::string& path) {
  std::string text;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char bytes[4096];
  for (ssize_t got = 0; (got = read(fd, bytes, sizeof bytes)) > 0;) {
    text.append(bytes, static_cast<std::size_t>(got));
  }
  close(fd);
  return text;
}

namespace {

template <class Predicate>
std::vector<ProcessInfo> processes_that(Predicate&& wanted) {
  std::vector<ProcessInfo> found;
  for (const ProcessInfo& process : all_processes()) {
    if (wanted(process)) found.push_back(process);
  }
  return found;
}

}  // namespace

std::optional<ProcessInfo> look_at(int pid) {
  const std::string text = read_file("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return std::nullopt;
  ProcessInfo info;
  info.pid = pid;
  info.name = text.substr(open + 1, close - open - 1);
  std::istringstream fields(text.substr(close + 1));
  std::vector<std::string> values;
  for (std::string value; fields >> value;) values.push_back(value);
  // Numbers of proc(5) less three.
  if (values.size() < 20) return std::nullopt;
  info.state = values[0][0];
  info.parent = std::stoi(values[1]);
  info.session = std::stoi(values[3]);
  info.cpu_ticks = std::stoull(values[11]) + std::stoull(values[12]);
  info.threads = std::stoi(values[17]);
  info.started = std::stoull(values[19]);
  return info;
}

std::vector<ProcessInfo> all_processes() {
  std::vector<ProcessInfo> found;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) return found;
  while (const dirent* entry = readdir(proc)) {
    if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])) == 0) continue;
    if (auto info = look_at(std::atoi(entry->d_name))) found.push_back(*std::move(info));
  }
  closedir(proc);
  return found;
}

std::vector<ProcessInfo> processes_in_session(int session) {
  return processes_that([&](const ProcessInfo& p) { return p.session == session; });
}

std::vector<ProcessInfo> children_of(int pid) {
  return processes_that([&](const ProcessInfo& p) { return p.parent == pid; });
}

bool runs(int pid) {
  const auto info = look_at(pid);
  return info && info->runs();
}

std::vector<ProcessInfo> named(const std::vector<ProcessInfo>& processes,
                               const std::string& prefix) {
  std::vector<ProcessInfo> found;
  for (const ProcessInfo& process : processes) {
    if (process.name.starts_with(prefix)) found.push_back(process);
  }
  return found;
}

std::string describe(const std::vector<ProcessInfo>& processes) {
  std::string text;
  for (const ProcessInfo& p : processes) {
    text += (text.empty() ? "" : "; ") + std::to_string(p.pid) + " (" + p.name + ") " + p.state +
            ", child of " + std::to_string(p.parent);
  }
  return text;
}

std::string field_of_status(int pid, const std::string& label) {
  std::istringstream in(read_file("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(label + ":")) continue;
    const std::size_t begin = line.find_first_not_of(" \t", label.size() + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

std::vector<std::string> open_files(int pid) {
  std::vector<std::string> files;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  DIR* open = opendir(folder.c_str());
  if (open == nullptr) return files;
  while (const dirent* entry = readdir(open)) {
    if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])) == 0) continue;
    if (pid == getpid() && std::atoi(entry->d_name) == dirfd(open)) continue;
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(folder + "/" + entry->d_name, gone);
    if (!gone) files.push_back(std::string(entry->d_name) + " -> " + target.string());
  }
  closedir(open);
  std::sort(files.begin(), files.end());
  return files;
}

bool stop_and_see(int pid) {
  if (kill(pid, SIGSTOP) != 0) return false;
  bool stopped = false;
  wait_until([&] {
    const auto info = look_at(pid);
    stopped = info && (info->state == 'T' || info->state == 't');
    return stopped || !info || !info->runs();
  });
  return stopped;
}

}  // namespace brood::test
