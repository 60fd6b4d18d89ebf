#include "sys/surroundings.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "sys/fd.hpp"
#include "sys/procfs.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

int status(long result) noexcept { return static_cast<int>(std::min(result, 0L)); }

std::vector<char*> pointers_to(std::span<const std::string> texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

int get_limit(std::uint32_t resource, ResourceLimit& limit) noexcept {
  static_assert(kResources == RLIM_NLIMITS && sizeof(rlimit64) == sizeof(ResourceLimit));
  rlimit64 found{};
  const long result = call(SYS_prlimit64, 0, resource, nullptr, &found);
  limit = {found.rlim_cur, found.rlim_max};
  return status(result);
}

std::vector<ResourceLimit> limits_of(int pid) {
  // prlimit would need rights over that process. A headline, then a line for each resource in the
  // order of their numbers: the name in 26 columns, the soft limit in 21, the hard one.
  constexpr std::size_t kSoftColumn = 26;
  constexpr std::size_t kHardColumn = 47;
  std::array<char, 4096> buffer;
  const long length = read_small_file(("/proc/" + std::to_string(pid) + "/limits").c_str(), buffer);
  std::string_view text(buffer.data(), static_cast<std::size_t>(std::max(length, 0L)));
  const auto number = [](std::string_view field) {
    std::uint64_t value = UINT64_MAX;  // "unlimited"
    std::from_chars(field.data(), field.data() + field.size(), value);
    return value;
  };
  std::vector<ResourceLimit> limits;
  for (std::size_t line = 0; !text.empty(); ++line) {
    const std::string_view row = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(row.size() + 1, text.size()));
    if (line == 0) continue;
    if (row.size() <= kHardColumn) return {};
    limits.push_back({number(row.substr(kSoftColumn)), number(row.substr(kHardColumn))});
  }
  return limits.size() == kResources ? limits : std::vector<ResourceLimit>{};
}

int set_limit(std::uint32_t resource, const ResourceLimit& limit) noexcept {
  const rlimit64 wanted{limit.soft, limit.hard};
  return status(call(SYS_prlimit64, 0, resource, &wanted, nullptr));
}

std::vector<std::uint64_t> affinity() {
  std::vector<std::uint64_t> mask(1024 / 8);
  const long bytes =
      call(SYS_sched_getaffinity, 0, mask.size() * sizeof(std::uint64_t), mask.data());
  mask.resize(static_cast<std::size_t>(std::max(bytes, 0L)) / sizeof(std::uint64_t));
  return mask;
}

int set_affinity(std::span<const std::uint64_t> mask) noexcept {
  return status(call(SYS_sched_setaffinity, 0, mask.size_bytes(), mask.data()));
}

int niceness() noexcept {
  constexpr long kKernelsZero = 20;
  return static_cast<int>(kKernelsZero - call(SYS_getpriority, PRIO_PROCESS, 0));
}

int set_niceness(int value) noexcept {
  return status(call(SYS_setpriority, PRIO_PROCESS, 0, value));
}

std::vector<std::string> environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

void replace_environment(std::vector<std::string> entries) {
  // The C library takes what stands here as it is, and copies the array when it has to grow.
  static auto* const texts = new std::vector<std::string>;
  static auto* const pointers = new std::vector<char*>;
  std::vector<char*> fresh = pointers_to(entries);
  *texts = std::move(entries);
  *pointers = std::move(fresh);
  environ = pointers->data();
}

bool has_variable(const char* name) noexcept { return std::getenv(name) != nullptr; }

int exec_same_program(std::span<const std::string> arguments) {
  const std::vector<char*> pointers = pointers_to(arguments);
  return status(call(SYS_execve, "/proc/self/exe", pointers.data(), environ));
}

int exec_program(const char* path, char* const* arguments, char* const* environment) noexcept {
  return status(call(SYS_execve, path, arguments, environment));
}

int exec_program(const std::string& program, std::span<const std::string> arguments) {
  const std::vector<char*> pointers = pointers_to(arguments);
  if (program.find('/') != std::string::npos) {
    return status(call(SYS_execve, program.c_str(), pointers.data(), environ));
  }
  const char* variable = std::getenv("PATH");
  const std::string_view folders = variable != nullptr ? variable : "/usr/bin:/bin";
  int result = -ENOENT;
  for (std::size_t at = 0; at <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', at), folders.size());
    const std::string path = std::string(folders.substr(at, end - at)) + "/" + program;
    const int error = status(call(SYS_execve, path.c_str(), pointers.data(), environ));
    if (error != -ENOENT && error != -ENOTDIR) result = error;
    at = end + 1;
  }
  return result;
}

std::vector<std::string> command_line() {
  const Fd file(static_cast<int>(
      call_restarting(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0)));
  std::string text;
  std::array<char, 4096> chunk;
  for (;;) {
    const long got = file ? call_restarting(SYS_read, file.get(), chunk.data(), chunk.size()) : 0;
    if (got <= 0) break;
    text.append(chunk.data(), static_cast<std::size_t>(got));
  }
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    arguments.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return arguments;
}

}  // namespace brood::sys
