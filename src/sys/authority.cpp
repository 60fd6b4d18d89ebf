#include "sys/authority.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "sys/procfs.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

// Those that decide what a process can see and reach. Not "pid": that of children may be set apart.
constexpr std::array kNamespaces = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"};
constexpr std::array kCapabilityLabels = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
enum CapabilitySet : std::uint8_t { kInheritable, kPermitted, kEffective, kBounding, kAmbient };
constexpr unsigned kCapabilities = 64;

// The rest of the line "label:\t..." in the text of /proc/PID/status.
std::string_view field(std::string_view status, std::string_view label) {
  for (std::size_t at = 0; at < status.size();) {
    std::size_t end = status.find('\n', at);
    if (end == std::string_view::npos) end = status.size();
    const std::string_view line = status.substr(at, end - at);
    if (line.starts_with(label) && line.substr(label.size()).starts_with(':')) {
      const std::size_t begin = line.find_first_not_of(" \t", label.size() + 1);
      return begin == std::string_view::npos ? std::string_view{} : line.substr(begin);
    }
    at = end + 1;
  }
  return {};
}

// The next number of `text`, which loses it; nullopt: there is none.
template <class T>
std::optional<T> take_number(std::string_view& text, int base) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  T value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + begin, end, value, base);
  if (error != std::errc{}) return std::nullopt;
  text = std::string_view(rest, static_cast<std::size_t>(end - rest));
  return value;
}

template <class T>
T number_in(std::string_view text, int base) {
  return take_number<T>(text, base).value_or(0);
}

std::array<std::uint32_t, 3> three_ids(std::string_view text) {
  std::array<std::uint32_t, 3> ids{};
  for (std::uint32_t& id : ids) id = take_number<std::uint32_t>(text, 10).value_or(UINT32_MAX);
  return ids;
}

std::string namespace_of(int pid, const char* kind) {
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/" + kind;
  std::array<char, 64> target;
  const long length =
      call(SYS_readlinkat, AT_FDCWD, path.c_str(), target.data(), target.size() - 1);
  return length < 0 ? std::string(kind)
                    : std::string(target.data(), static_cast<std::size_t>(length));
}

void assume_ids(const Authority& wanted) {
  // Without it, leaving the root user would take the capabilities that are wanted.
  call(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
  call(SYS_setgroups, wanted.groups.size(), wanted.groups.data());
  call(SYS_setresgid, wanted.group_ids[0], wanted.group_ids[1], wanted.group_ids[2]);
  call(SYS_setresuid, wanted.user_ids[0], wanted.user_ids[1], wanted.user_ids[2]);
  call(SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
}

void assume_capabilities(const Authority& wanted) {
  __user_cap_header_struct header{};
  header.version = _LINUX_CAPABILITY_VERSION_3;
  std::array<__user_cap_data_struct, 2> data{};
  for (std::size_t half = 0; half < data.size(); ++half) {
    const auto part = [&](CapabilitySet set) {
      return static_cast<std::uint32_t>(wanted.capabilities[set] >> (32 * half));
    };
    data[half] = {part(kEffective), part(kPermitted), part(kInheritable)};
  }
  call(SYS_capset, &header, data.data());
  call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (unsigned capability = 0; capability < kCapabilities; ++capability) {
    if ((wanted.capabilities[kAmbient] >> capability & 1U) == 0) continue;
    call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
}

}  // namespace

std::optional<Authority> authority_of(int pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  std::array<char, 16384> buffer;
  const long length = read_small_file((folder + "/status").c_str(), buffer);
  if (length <= 0) return std::nullopt;
  const std::string_view status(buffer.data(), static_cast<std::size_t>(length));
  Authority found;
  found.user_ids = three_ids(field(status, "Uid"));
  found.group_ids = three_ids(field(status, "Gid"));
  std::string_view groups = field(status, "Groups");
  while (const auto group = take_number<std::uint32_t>(groups, 10)) found.groups.push_back(*group);
  std::ranges::sort(found.groups);
  for (std::size_t set = 0; set < kCapabilityLabels.size(); ++set) {
    found.capabilities[set] = number_in<std::uint64_t>(field(status, kCapabilityLabels[set]), 16);
  }
  found.no_new_privileges = number_in<int>(field(status, "NoNewPrivs"), 10) != 0;
  found.seccomp = number_in<int>(field(status, "Seccomp"), 10);
  found.umask = number_in<std::uint32_t>(field(status, "Umask"), 8);
  struct stat root{};
  if (call(SYS_newfstatat, AT_FDCWD, (folder + std::string("/root") + "/.").c_str(), &root, 0) >=
      0) {
    found.root_device = root.st_dev;
    found.root_inode = root.st_ino;
  }
  for (const char* kind : kNamespaces) found.namespaces.push_back(namespace_of(pid, kind));
  return found;
}

void assume_authority(const Authority& wanted) {
  call(SYS_umask, wanted.umask);
  for (unsigned capability = 0; capability < kCapabilities; ++capability) {
    if ((wanted.capabilities[kBounding] >> capability & 1U) != 0) continue;
    call(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  assume_ids(wanted);
  assume_capabilities(wanted);
}

std::string difference(const Authority& process, const Authority& other) {
  if (process.user_ids != other.user_ids) return "another user id";
  if (process.group_ids != other.group_ids) return "another group id";
  if (process.groups != other.groups) return "other supplementary groups";
  if (process.capabilities != other.capabilities) return "other capabilities";
  if (process.no_new_privileges != other.no_new_privileges) return "another no_new_privs flag";
  if (process.seccomp != other.seccomp) return "another seccomp filter";
  if (process.umask != other.umask) return "another umask";
  if (process.root_device != other.root_device || process.root_inode != other.root_inode) {
    return "another root directory";
  }
  if (process.namespaces != other.namespaces) return "other namespaces";
  return {};
}

}  // namespace brood::sys
