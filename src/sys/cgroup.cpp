#include "sys/cgroup.hpp"

#include <algorithm>
#include <charconv>
#include <vector>

#include "sys/procfs.hpp"

namespace brood::sys {

namespace {

// The text up to `separator`, which is taken out of `rest` with it.
std::string_view take(std::string_view& rest, char separator) {
  const std::size_t end = rest.find(separator);
  const std::string_view taken = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return taken;
}

bool lists(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    if (take(names, ',') == name) return true;
  }
  return false;
}

// mountinfo writes blanks and the like as "\040".
std::string unescaped(std::string_view text) {
  constexpr std::size_t kDigits = 3;
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '\\' && i + kDigits < text.size()) {
      const char* const first = text.data() + i + 1;
      const auto [end, error] = std::from_chars(first, first + kDigits, code, 8);
      if (error == std::errc{} && end == first + kDigits) {
        plain += static_cast<char>(code);
        i += kDigits;
        continue;
      }
    }
    plain += text[i];
  }
  return plain;
}

// A group's path. The kernel writes it relative to the root of the reader's cgroup namespace, with
// ".." in front for what lies outside.
struct GroupPath {
  std::size_t ups = 0;
  std::vector<std::string_view> names;

  static std::optional<GroupPath> parse(std::string_view text) {
    if (!text.starts_with('/')) return std::nullopt;
    GroupPath path;
    while (!text.empty()) {
      const std::string_view name = take(text, '/');
      if (name.empty()) continue;
      if (name == "." || (name == ".." && !path.names.empty())) return std::nullopt;
      if (name == "..") {
        ++path.ups;
      } else {
        path.names.push_back(name);
      }
    }
    return path;
  }
};

// The way down from `above` to `path`. Empty also where the names on it can't be known: a group
// outside the namespace is above all that lies in it. nullopt: `above` is not above it.
std::optional<std::vector<std::string_view>> way_down(const GroupPath& above,
                                                      const GroupPath& path) {
  using Names = std::vector<std::string_view>;
  if (above.ups > path.ups && above.names.empty()) return Names{};
  if (above.ups != path.ups || above.names.size() > path.names.size()) return std::nullopt;
  const auto own = path.names.begin() + static_cast<std::ptrdiff_t>(above.names.size());
  if (!std::equal(above.names.begin(), above.names.end(), path.names.begin())) return std::nullopt;
  return Names(own, path.names.end());
}

enum class Version { v1, v2 };

struct Mount {
  Version version;
  std::string root;  // the group that is seen at `point`
  std::string point;
};

// "36 35 98:0 /root /point rw,noatime master:1 - type source options": the optional fields before
// the dash may be any number.
std::optional<Mount> parse_mount(std::string_view line, std::string_view controller) {
  take(line, ' ');
  take(line, ' ');
  take(line, ' ');
  const std::string_view root = take(line, ' ');
  const std::string_view point = take(line, ' ');
  while (!line.empty() && take(line, ' ') != "-") {
  }
  const std::string_view type = take(line, ' ');
  take(line, ' ');
  if (point.empty()) return std::nullopt;
  if (type == "cgroup2") return Mount{Version::v2, unescaped(root), unescaped(point)};
  if (type == "cgroup" && lists(line, controller)) {
    return Mount{Version::v1, unescaped(root), unescaped(point)};
  }
  return std::nullopt;
}

// "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1; the path may hold colons.
std::optional<GroupPath> own_group(std::string_view cgroup, Version version,
                                   std::string_view controller) {
  while (!cgroup.empty()) {
    std::string_view line = take(cgroup, '\n');
    const std::string_view number = take(line, ':');
    const std::string_view controllers = take(line, ':');
    const bool wanted = version == Version::v2 ? number == "0" && controllers.empty()
                                               : lists(controllers, controller);
    if (wanted) return GroupPath::parse(line);
  }
  return std::nullopt;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// A number above zero; words, signs and what is too large are none.
std::optional<std::uint64_t> positive(std::string_view text) {
  text = trimmed(text);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> quotient(std::optional<std::uint64_t> quota,
                                      std::optional<std::uint64_t> period) {
  if (!quota || !period) return std::nullopt;
  return *quota / *period + (*quota % *period != 0 ? 1 : 0);
}

std::optional<std::uint64_t> limit_of(Version version, const std::string& folder,
                                      const FileReader& read) {
  if (version == Version::v2) {
    const std::optional<std::string> text = read(folder + "/cpu.max");
    if (!text) return std::nullopt;
    std::string_view period = trimmed(*text);
    const std::string_view quota = take(period, ' ');
    return quotient(positive(quota), positive(period));
  }
  const std::optional<std::string> quota = read(folder + "/cpu.cfs_quota_us");
  if (!quota || !positive(*quota)) return std::nullopt;
  const std::optional<std::string> period = read(folder + "/cpu.cfs_period_us");
  return period ? quotient(positive(*quota), positive(*period)) : std::nullopt;
}

// `mine` and all above it that can be seen at this mount.
std::optional<std::uint64_t> least_below(const Mount& mount, const GroupPath& mine,
                                         const FileReader& read) {
  const std::optional<GroupPath> root = GroupPath::parse(mount.root);
  if (!root) return std::nullopt;
  const auto names = way_down(*root, mine);
  if (!names) return std::nullopt;
  std::string folder = mount.point == "/" ? "" : mount.point;
  std::optional<std::uint64_t> least = limit_of(mount.version, folder, read);
  for (const std::string_view name : *names) {
    folder += '/';
    folder += name;
    const std::optional<std::uint64_t> limit = limit_of(mount.version, folder, read);
    if (limit) least = std::min(least.value_or(*limit), *limit);
  }
  return least;
}

}  // namespace

std::optional<std::uint64_t> cgroup_cpus(std::string_view mountinfo, std::string_view cgroup,
                                         const FileReader& read) {
  std::optional<std::uint64_t> least;
  while (!mountinfo.empty()) {
    const std::optional<Mount> mount = parse_mount(take(mountinfo, '\n'), "cpu");
    if (!mount) continue;
    const std::optional<GroupPath> mine = own_group(cgroup, mount->version, "cpu");
    if (!mine) continue;
    const std::optional<std::uint64_t> limit = least_below(*mount, *mine, read);
    if (limit) least = std::min(least.value_or(*limit), *limit);
  }
  return least;
}

std::optional<std::uint64_t> cgroup_cpus() {
  const std::optional<std::string> mountinfo = read_whole_file("/proc/self/mountinfo");
  const std::optional<std::string> cgroup = read_whole_file("/proc/self/cgroup");
  if (!mountinfo || !cgroup) return std::nullopt;
  return cgroup_cpus(*mountinfo, *cgroup,
                     [](const std::string& path) { return read_whole_file(path.c_str()); });
}

std::string cgroup_memory_events() {
  const std::optional<std::string> mountinfo = read_whole_file("/proc/self/mountinfo");
  const std::optional<std::string> cgroup = read_whole_file("/proc/self/cgroup");
  if (!mountinfo || !cgroup) return {};
  std::string_view lines = *mountinfo;
  while (!lines.empty()) {
    const std::optional<Mount> mount = parse_mount(take(lines, '\n'), "memory");
    if (!mount) continue;
    const std::optional<GroupPath> mine = own_group(*cgroup, mount->version, "memory");
    const std::optional<GroupPath> root = GroupPath::parse(mount->root);
    if (!mine || !root) continue;
    const auto names = way_down(*root, *mine);
    if (!names) continue;
    std::string path = mount->point == "/" ? "" : mount->point;
    for (const std::string_view name : *names) path.append("/").append(name);
    path += mount->version == Version::v2 ? "/memory.events" : "/memory.oom_control";
    if (labelled_number(path.c_str(), "oom_kill")) return path;
  }
  return {};
}

}  // namespace brood::sys
