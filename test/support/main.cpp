// main() of all test programs, with the checker: after each test everything is as before it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "start/birth.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"
#include "warden/family.hpp"

#ifdef BROOD_SANITIZED
// Deaths by signal are to be what the kernel says, not what the sanitizer makes of them.
extern "C" const char* __asan_default_options() {
  return "detect_stack_use_after_return=1:handle_segv=0:handle_sigbus=0:handle_abort=0:"
         "handle_sigill=0:handle_sigfpe=0:allocator_may_return_null=1";
}
#endif

namespace brood::test {
namespace {

// In the environment of this program, and so of everything that comes from it: survives new
// sessions, execs, and the death of parents.
constexpr const char* kMarkName = "BROOD_TEST_PROGRAM";
constexpr const char* kRoomForMark = "----------";  // as test/CMakeLists.txt gives it
std::string the_mark;                               // the whole entry

bool has_mark(int pid) {
  std::istringstream in(read_file("/proc/" + std::to_string(pid) + "/environ"));
  for (std::string entry; std::getline(in, entry, '\0');) {
    if (entry == the_mark) return true;
  }
  return false;
}

// Zombies have no environment any more, but still a parent and a session.
bool is_ours(const ProcessInfo& process) {
  if (process.pid == getpid()) return false;
  if (process.parent == getpid()) return true;
  // A zombie that init adopted is init's to reap, in its own time.
  if (process.session == getpid()) return process.runs() || process.parent != 1;
  return process.runs() && has_mark(process.pid);
}

// What there is besides memory: as lines of text, to be compared.
std::set<std::string> take_stock() {
  std::set<std::string> stock;
  for (const ProcessInfo& process : all_processes()) {
    if (is_ours(process)) stock.insert("process " + describe({process}));
  }
  for (const std::string& file : open_files(getpid())) stock.insert("descriptor " + file);
  std::istringstream maps(read_file("/proc/self/maps"));
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:") != std::string::npos || line.find("/dev/shm") != std::string::npos) {
      stock.insert("mapping " + line);
    }
  }
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", unreadable)) {
    stock.insert("file " + entry.path().string());
  }
  if (const auto self = look_at(getpid())) {
    stock.insert("threads: " + std::to_string(self->threads));
  }
  return stock;
}

class Checker : public testing::EmptyTestEventListener {
 private:
  void OnTestStart(const testing::TestInfo& /*test*/) override { before_ = take_stock(); }

  void OnTestEnd(const testing::TestInfo& /*test*/) override {
    warden::Family::disband();
    std::vector<std::string> left;
    wait_until(
        [&] {
          left.clear();
          const std::set<std::string> now = take_stock();
          std::set_difference(now.begin(), now.end(), before_.begin(), before_.end(),
                              std::back_inserter(left));
          return left.empty();
        },
        std::chrono::seconds(2) * kSlowness);
    std::string text;
    for (const std::string& line : left) text += "\n  " + line;
    EXPECT_TRUE(left.empty()) << "the test left behind:" << text;
  }

  std::set<std::string> before_;
};

// Puts the mark into the environment that /proc shows, which is the one this program was started
// with: over what ctest leaves there for it, or else by starting the program once more.
void mark_this_program(char** argv) {
  std::string mark = std::to_string(getpid());
  mark.insert(0, std::strlen(kRoomForMark) - mark.size(), '0');
  the_mark = kMarkName;
  the_mark.append("=").append(mark);
  char* present = std::getenv(kMarkName);
  if (present != nullptr && mark == present) return;
  if (present != nullptr && std::strcmp(present, kRoomForMark) == 0) {
    std::memcpy(present, mark.data(), mark.size());
    return;
  }
  setenv(kMarkName, mark.c_str(), 1);
  std::error_code unreadable;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", unreadable);
  execv(path.c_str(), argv);
  std::perror("can't start the test program again");
}

// ThreadSanitizer starts a thread of its own with the program's first one; no test is to blame.
void start_the_threads_of_tools() {
#ifdef BROOD_SANITIZED
  std::thread([] {}).join();
#endif
}

}  // namespace
}  // namespace brood::test

int main(int argc, char** argv) {
  // As init() would, but without making this process a family: most tests found their own.
  brood::start::be_born_if_spawned();
  brood::test::mark_this_program(argv);
  // Fails for the leader of a process group, which loses nothing but the sight of some zombies.
  setsid();
  brood::test::start_the_threads_of_tools();
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new brood::test::Checker);
  return RUN_ALL_TESTS();
}
