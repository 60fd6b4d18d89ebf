#include "start/surroundings.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "brood/error.hpp"
#include "sys/memory.hpp"
#include "sys/syscall.hpp"

namespace brood::start {

namespace {

constexpr int kBitsPerWord = 64;

[[noreturn]] void refuse(const std::string& what) {
  throw StartError("brood: can't start a process: " + what);
}

std::string reason(int error) { return std::generic_category().message(-error); }

void require(int result, const std::string& doing) {
  if (result < 0) throw std::runtime_error(doing + ": " + reason(result));
}

std::vector<std::uint64_t> mask_of(const std::vector<int>& processors) {
  constexpr int kMost = 8192;
  std::vector<std::uint64_t> mask(1024 / kBitsPerWord);
  for (const int processor : processors) {
    if (processor < 0 || processor >= kMost) {
      refuse("affinity: there is no processor " + std::to_string(processor));
    }
    const auto word = static_cast<std::size_t>(processor / kBitsPerWord);
    if (word >= mask.size()) mask.resize(word + 1);
    mask[word] |= std::uint64_t{1} << (processor % kBitsPerWord);
  }
  return mask;
}

std::vector<sys::ResourceLimit> limits_with(const std::vector<ResourceLimit>& changes) {
  std::vector<sys::ResourceLimit> limits(sys::kResources);
  for (std::uint32_t i = 0; i < sys::kResources; ++i) sys::get_limit(i, limits[i]);
  for (const ResourceLimit& change : changes) {
    const auto number = static_cast<std::uint32_t>(change.resource);
    if (number >= sys::kResources) refuse("rlimits: there is no such resource");
    limits[number] = {change.soft, change.hard.value_or(change.soft)};
    if (limits[number].soft > limits[number].hard) {
      refuse("rlimits: a soft limit is above the hard one");
    }
  }
  return limits;
}

std::vector<std::string> entries_of(const std::map<std::string, std::string>& environment) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : environment) {
    const bool usable = !name.empty() && name.find('=') == std::string::npos &&
                        (name + value).find('\0') == std::string::npos;
    if (!usable) refuse("env: '" + name + "' can't be the name of a variable, or its value");
    entries.push_back(name + "=" + value);
  }
  return entries;
}

sys::Fd open_directory(const std::string& path) {
  if (path.find('\0') != std::string::npos) refuse("cwd has a zero byte in its path");
  sys::Fd directory(path.empty() ? sys::open_working_directory()
                                 : sys::open_directory(path.c_str()));
  if (!directory) refuse("cwd " + path + ": " + reason(directory.get()));
  return directory;
}

// The descriptor for a stream; what is opened for it goes to `captured` or `nowhere`.
int stream_for(const Output& output, int inherited, sys::Fd& captured, sys::Fd& nowhere) {
  const char* const name = inherited == 1 ? "out" : "err";
  if (output == Output::inherit) return sys::is_open(inherited) ? inherited : -1;
  if (output == Output::null) {
    if (!nowhere) nowhere.reset(sys::open_null());
    if (!nowhere) refuse(std::string(name) + ": /dev/null can't be opened");
    return nowhere.get();
  }
  if (output == Output::capture) {
    captured.reset(sys::create_log_file(name));
    if (!captured) refuse(std::string(name) + ": " + reason(captured.get()));
    return captured.get();
  }
  if (!sys::is_open(output.fd())) {
    refuse(std::string(name) + ": descriptor " + std::to_string(output.fd()) + " is not open");
  }
  return output.fd();
}

}  // namespace

bool changes_anything(const ProcessOptions& options) noexcept {
  return options.nice || !options.affinity.empty() || !options.rlimits.empty() ||
         !options.cwd.empty() || options.env || options.out != Output::inherit ||
         options.err != Output::inherit || options.close_fds || !options.keep_fds.empty();
}

Preparation prepare(const ProcessOptions& options) {
  constexpr int kLeastNice = -20;
  constexpr int kMostNice = 19;
  Preparation ready;
  if (options.nice && (*options.nice < kLeastNice || *options.nice > kMostNice)) {
    refuse("nice " + std::to_string(*options.nice) + " is not between -20 and 19");
  }
  Surroundings& wanted = ready.surroundings;
  wanted.niceness = options.nice.value_or(sys::niceness());
  wanted.affinity = options.affinity.empty() ? sys::affinity() : mask_of(options.affinity);
  wanted.limits = limits_with(options.rlimits);
  wanted.environment = options.env ? entries_of(*options.env) : sys::environment();
  StartDescriptors& fds = ready.descriptors;
  for (const int fd : options.keep_fds) {
    if (fd < 3 || !sys::is_open(fd)) {
      refuse("keep_fds: " + std::to_string(fd) + " is no open descriptor above the streams");
    }
    wanted.kept.push_back(fd);
    fds.kept.push_back(fd);
  }
  fds.directory = open_directory(options.cwd);
  fds.output = stream_for(options.out, 1, fds.captured_output, fds.nowhere);
  fds.errors = stream_for(options.err, 2, fds.captured_errors, fds.nowhere);
  return ready;
}

void take_descriptors(const StartDescriptors& wanted) {
  // Copies first: out may be the caller's errors, and the other way round.
  std::array<sys::Fd, 2> copies;
  const std::array streams = {wanted.output, wanted.errors};
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (streams[i] < 0) continue;
    copies[i].reset(sys::copy_above_streams(streams[i]));
    require(copies[i].get(), i == 0 ? "out" : "err");
  }
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const int number = static_cast<int>(i) + 1;
    if (streams[i] < 0) {
      sys::close_fd(number);
    } else {
      require(sys::place_fd(copies[i].get(), number), i == 0 ? "out" : "err");
    }
  }
  require(sys::enter_directory(wanted.directory.get()), "cwd");
}

void take_limits(const Surroundings& wanted) {
  for (std::uint32_t i = 0; i < wanted.limits.size() && i < sys::kResources; ++i) {
    sys::ResourceLimit now;
    if (sys::get_limit(i, now) == 0 && now == wanted.limits[i]) continue;
    require(sys::set_limit(i, wanted.limits[i]), "rlimits: resource " + std::to_string(i));
  }
}

void take_on(const Surroundings& wanted) {
  if (sys::affinity() != wanted.affinity) {
    require(sys::set_affinity(wanted.affinity), "affinity");
  }
  if (sys::niceness() != wanted.niceness) {
    require(sys::set_niceness(wanted.niceness), "nice " + std::to_string(wanted.niceness));
  }
  sys::replace_environment(wanted.environment);
}

}  // namespace brood::start
