#include "sys/procfs.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

// The fields of /proc/PID/stat after the name, which may itself hold blanks and brackets.
// Field 3 of the manual page (the state) is number 0 here.
class StatFields {
 public:
  explicit StatFields(int pid) noexcept {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
    const long length = read_small_file(path, text_);
    const char* name_end = length > 0 ? std::strrchr(text_, ')') : nullptr;
    if (name_end == nullptr || name_end[1] == '\0') return;
    rest_ = name_end + 2;
  }

  [[nodiscard]] bool readable() const noexcept { return rest_ != nullptr; }
  [[nodiscard]] char state() const noexcept { return *rest_; }

  [[nodiscard]] std::uint64_t number(int index) const noexcept {
    const char* at = rest_;
    for (int i = 0; i < index && at != nullptr; ++i) {
      at = std::strchr(at, ' ');
      if (at != nullptr) ++at;
    }
    std::uint64_t value = 0;
    if (at != nullptr) std::from_chars(at, text_ + sizeof text_, value);
    return value;
  }

 private:
  char text_[1024];
  const char* rest_ = nullptr;
};

constexpr int kFieldFlags = 6;  // numbers of proc(5) less three
constexpr int kFieldUserTicks = 11;
constexpr int kFieldSystemTicks = 12;
constexpr int kFieldResidentPages = 21;
constexpr int kFieldExitCode = 49;
constexpr std::uint64_t kFlagExiting = 0x4;  // PF_EXITING

}  // namespace

long read_small_file(const char* path, std::span<char> buffer) noexcept {
  const Fd fd(
      static_cast<int>(call_restarting(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0)));
  if (!fd) return fd.get();
  std::size_t length = 0;
  while (length + 1 < buffer.size()) {
    const long got =
        call_restarting(SYS_read, fd.get(), buffer.data() + length, buffer.size() - 1 - length);
    if (got < 0) return got;
    if (got == 0) break;
    length += static_cast<std::size_t>(got);
  }
  buffer[length] = '\0';
  return static_cast<long>(length);
}

std::optional<int> status_of_dying(int pid) noexcept {
  const StatFields stat(pid);
  if (!stat.readable()) return std::nullopt;
  const bool dying = stat.state() == 'Z' || (stat.number(kFieldFlags) & kFlagExiting) != 0;
  if (!dying) return std::nullopt;
  return static_cast<int>(stat.number(kFieldExitCode));
}

std::optional<UsageNow> usage_of(int pid) noexcept {
  const StatFields stat(pid);
  if (!stat.readable()) return std::nullopt;
  const auto ticks_per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  const std::uint64_t tick_ns = 1'000'000'000 / ticks_per_second;
  const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return UsageNow{stat.number(kFieldUserTicks) * tick_ns, stat.number(kFieldSystemTicks) * tick_ns,
                  stat.number(kFieldResidentPages) * page_bytes};
}

std::optional<std::uint64_t> own_memory_of(int pid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/statm", pid);
  // "size resident shared ...", in pages.
  char text[256];
  const long length = read_small_file(path, text);
  if (length <= 0) return std::nullopt;
  std::uint64_t numbers[3]{};
  const char* at = text;
  for (std::uint64_t& number : numbers) {
    const auto [next, error] = std::from_chars(at, text + length, number);
    if (error != std::errc{}) return std::nullopt;
    at = next < text + length ? next + 1 : next;
  }
  const std::uint64_t own = numbers[1] - std::min(numbers[1], numbers[2]);
  return own * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::optional<std::uint64_t> labelled_number(const char* path, std::string_view label) noexcept {
  char text[4096];
  const long length = read_small_file(path, text);
  if (length <= 0) return std::nullopt;
  std::string_view rest(text, static_cast<std::size_t>(length));
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (!line.starts_with(label) || line.size() <= label.size() || line[label.size()] != ' ') {
      continue;
    }
    std::uint64_t number = 0;
    const char* const first = line.data() + label.size() + 1;
    const auto [end, error] = std::from_chars(first, line.data() + line.size(), number);
    if (error == std::errc{} && end == line.data() + line.size()) return number;
  }
  return std::nullopt;
}

void signal_children(int signal, bool (*spare)(int pid, void* context), void* context) noexcept {
  char path[64];
  const int self = process_id();
  std::snprintf(path, sizeof path, "/proc/%d/task/%d/children", self, self);
  char text[16 * 1024];
  if (read_small_file(path, text) <= 0) return;
  const char* at = text;
  const char* const end = text + std::strlen(text);
  while (at < end) {
    int pid = 0;
    const auto [next, error] = std::from_chars(at, end, pid);
    if (error != std::errc{} || next == at) break;
    // A child that has not been reaped keeps its number, so this can't hit a stranger.
    if (pid > 0 && !spare(pid, context)) call(SYS_kill, pid, signal);
    at = next < end ? next + 1 : end;
  }
}

std::uint64_t peak_rss_of(int pid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/status", pid);
  std::array<char, 4096> text;
  constexpr std::string_view kLabel = "VmHWM:";
  if (read_small_file(path, text) <= 0) return 0;
  const char* const line = std::strstr(text.data(), kLabel.data());
  return line != nullptr ? std::strtoull(line + kLabel.size(), nullptr, 10) * 1024 : 0;
}

std::uint32_t user_of(int pid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d", pid);
  struct stat info{};
  return call(SYS_newfstatat, AT_FDCWD, path, &info, 0) < 0 ? UINT32_MAX : info.st_uid;
}

namespace {

struct TreeNode {
  int pid;
  Fd own_pidfd;
  int pidfd;
};

// Adds those children of `parent` that are not in `tree` yet.
void add_children(int parent, std::vector<TreeNode>& tree) {
  constexpr int kParentField = 1;  // of proc(5), less three
  const std::string tasks = "/proc/" + std::to_string(parent) + "/task";
  std::error_code gone;
  for (const auto& task : std::filesystem::directory_iterator(tasks, gone)) {
    std::array<char, 16 * 1024> text;
    const std::string path = task.path().string() + "/children";
    if (read_small_file(path.c_str(), text) <= 0) continue;
    for (const char* at = text.data(); *at != '\0';) {
      char* next = nullptr;
      const int pid = static_cast<int>(std::strtol(at, &next, 10));
      if (next == at) break;
      at = *next == ' ' ? next + 1 : next;
      const auto same = [&](const TreeNode& node) { return node.pid == pid; };
      if (std::ranges::any_of(tree, same)) continue;
      Fd pidfd(open_pidfd(pid));
      // Only after the descriptor is open is it sure whose number this is.
      const StatFields stat(pid);
      if (!pidfd || !stat.readable() ||
          stat.number(kParentField) != static_cast<unsigned>(parent)) {
        continue;
      }
      const int fd = pidfd.get();
      tree.push_back({pid, std::move(pidfd), fd});
    }
  }
}

}  // namespace

void kill_tree(int pid, int pidfd) {
  std::vector<TreeNode> tree;
  tree.push_back({pid, Fd(), pidfd});
  // From the root down: nobody is to see the death of a child and act on it. Who is to die makes no
  // more children, so that all are looked at once more.
  std::size_t killed = 0;
  for (int look = 0; look < 2; ++look) {
    for (std::size_t i = 0; i < tree.size(); ++i) add_children(tree[i].pid, tree);
    for (; killed < tree.size(); ++killed) send_signal(tree[killed].pidfd, signal_number::kKill);
  }
}

std::optional<std::string> read_whole_file(const char* path) {
  const Fd fd(
      static_cast<int>(call_restarting(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0)));
  if (!fd) return std::nullopt;
  std::string text;
  char chunk[16 * 1024];
  for (;;) {
    const long got = call_restarting(SYS_read, fd.get(), chunk, sizeof chunk);
    if (got < 0) return std::nullopt;
    if (got == 0) return text;
    text.append(chunk, static_cast<std::size_t>(got));
  }
}

namespace {

// Larger ones are bookkeeping of tools such as AddressSanitizer, whose map of memory takes in all
// small numbers; no object lies there.
constexpr std::uintptr_t kLargestRange = std::uintptr_t{1} << 40U;

// The ranges whose access ("rwxp") `wanted` accepts.
template <class Wanted>
std::optional<std::vector<MemoryRange>> mapped_memory(Wanted&& wanted) {
  const std::optional<std::string> text = read_whole_file("/proc/self/maps");
  if (!text) return std::nullopt;
  std::vector<MemoryRange> ranges;
  for (std::size_t at = 0; at < text->size();) {
    std::size_t line_end = text->find('\n', at);
    if (line_end == std::string::npos) line_end = text->size();
    // "begin-end rwxp ..."
    const char* const stop = text->data() + line_end;
    MemoryRange range{};
    const auto [dash, bad_begin] = std::from_chars(text->data() + at, stop, range.begin, 16);
    const auto [blank, bad_end] = std::from_chars(std::min(dash + 1, stop), stop, range.end, 16);
    const bool parsed = bad_begin == std::errc{} && bad_end == std::errc{} && stop - blank > 4;
    if (parsed && wanted(blank + 1) && range.end - range.begin < kLargestRange) {
      ranges.push_back(range);
    }
    at = line_end + 1;
  }
  return ranges;
}

}  // namespace

std::optional<std::vector<MemoryRange>> private_writable_memory() {
  return mapped_memory([](const char* access) { return access[1] == 'w' && access[3] == 'p'; });
}

std::optional<std::vector<MemoryRange>> executable_memory() {
  return mapped_memory([](const char* access) { return access[2] == 'x'; });
}

}  // namespace brood::sys
