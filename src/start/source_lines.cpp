// with_source_lines() (brood/backtrace.hpp): other programs know how to read debug information.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "brood/backtrace.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/surroundings.hpp"
#include "sys/symbols.hpp"

namespace brood {

namespace {

constexpr std::int64_t kMostTimeNs = 10'000'000'000;
constexpr std::size_t kMostFrames = 1000;
constexpr std::size_t kMostOutput = std::size_t{1} << 20;

// The same program by two names: called by the second it takes what addr2line takes.
struct Tool {
  const char* file;
  const char* name;
};
constexpr std::array<Tool, 2> kTools = {
    {{"llvm-symbolizer", "llvm-addr2line"}, {"addr2line", "addr2line"}}};

std::vector<std::string> search_path(const std::vector<std::string>& environment) {
  constexpr std::string_view kName = "PATH=";
  std::vector<std::string> directories;
  for (const std::string& variable : environment) {
    if (!variable.starts_with(kName)) continue;
    for (const auto part :
         std::views::split(std::string_view(variable).substr(kName.size()), ':')) {
      const std::string_view directory(part.begin(), part.end());
      // What lies wherever this process happens to be is none of its tools.
      if (directory.starts_with('/')) directories.emplace_back(directory);
    }
  }
  return directories;
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  // execve() only reads them.
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// What the tool says of addresses in a module; empty: nothing, or there is no tool.
class Asking {
 public:
  Asking() {
    const std::vector<std::string> directories = search_path(environment_);
    for (const Tool& tool : kTools) {
      for (const std::string& directory : directories) {
        places_.push_back({directory + "/" + tool.file, tool.name});
      }
    }
  }

  std::string ask(const std::string& module, std::span<const std::string> addresses) {
    std::vector<std::string> arguments = {"", "-a", "-i", "-e", module};
    arguments.insert(arguments.end(), addresses.begin(), addresses.end());
    std::vector<char*> argument_pointers = pointers_to(arguments);
    const std::vector<char*> environment_pointers = pointers_to(environment_);
    const sys::Fd output(sys::create_log_file("brood-source-lines"));
    if (!output || places_.empty()) return {};

    sys::Fd pidfd;
    {
      sys::SignalsBlocked blocked;
      const long pid = sys::clone_quiet(pidfd);
      if (pid < 0) return {};
      if (pid == 0) {
        blocked.keep();
        watch_tool(output.get(), argument_pointers, environment_pointers.data());
      }
    }
    return await(pidfd) ? text_of(output.get()) : std::string();
  }

 private:
  struct Place {
    std::string path;
    const char* name;
  };

  // Who executes another program ends with SIGCHLD, whatever it was made with: for the host's
  // wait() not to see it, it is a child of a child that executes nothing.
  [[noreturn]] void watch_tool(int output, std::span<char*> arguments,
                               char* const* environment) const noexcept {
    sys::die_with_parent();
    sys::reset_signals();  // an ignored SIGCHLD would reap the tool
    const std::array keep = {output};
    sys::close_all_but(keep);
    sys::Fd tool;
    const long pid = sys::clone_quiet(tool);
    if (pid == 0) become_tool(output, arguments, environment);
    sys::ExitStatus status;
    const bool ended = pid > 0 && sys::has_ended(tool.get(), deadline_ns_) == 1 &&
                       sys::reap(tool.get(), status) == 1 && status.signal == 0;
    sys::exit_now(ended ? status.code : 1);
  }

  [[noreturn]] void become_tool(int output, std::span<char*> arguments,
                                char* const* environment) const noexcept {
    sys::die_with_parent();
    sys::reset_signals();
    if (sys::place_fd(output, 1) < 0) sys::exit_now(1);
    sys::redirect_to_null(0);
    sys::redirect_to_null(2);
    sys::close_all_but({});
    for (const Place& place : places_) {
      arguments[0] = const_cast<char*>(place.name);
      sys::exec_program(place.path.c_str(), arguments.data(), environment);
    }
    sys::exit_now(1);
  }

  // Whether it ended in time, and well.
  [[nodiscard]] bool await(const sys::Fd& pidfd) const noexcept {
    if (sys::has_ended(pidfd.get(), deadline_ns_) != 1) {
      sys::send_signal(pidfd.get(), sys::signal_number::kKill);
      sys::has_ended(pidfd.get(), sys::kForever);
    }
    sys::ExitStatus status;
    return sys::reap(pidfd.get(), status) == 1 && status.signal == 0 && status.code == 0;
  }

  static std::string text_of(int file) {
    const long bytes = sys::file_bytes(file);
    std::string text(std::min(static_cast<std::size_t>(std::max(bytes, 0L)), kMostOutput), '\0');
    const long got =
        sys::read_at(file, std::as_writable_bytes(std::span(text.data(), text.size())), 0);
    text.resize(static_cast<std::size_t>(std::max(got, 0L)));
    return text;
  }

  const std::vector<std::string> environment_ = sys::environment();
  const std::int64_t deadline_ns_ = sys::now_ns() + kMostTimeNs;
  std::vector<Place> places_;
};

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// "#0 name + 0x1f at /path[0x1234]": the path and the address; empty if it is none.
struct FramePlace {
  std::string module;
  std::string address;
};
FramePlace place_in(std::string_view line) {
  constexpr std::string_view kAt = " at /";
  const std::size_t at = line.find(kAt);
  const std::size_t open = line.rfind("[0x");
  if (!line.starts_with('#') || !line.ends_with(']') || at == std::string_view::npos ||
      open == std::string_view::npos || open < at + kAt.size()) {
    return {};
  }
  const std::string_view address = line.substr(open + 1, line.size() - open - 2);
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (!std::ranges::all_of(address.substr(2), is_digit)) return {};
  const std::size_t begin = at + kAt.size() - 1;
  return {std::string(line.substr(begin, open - begin)), std::string(address)};
}

// Of each address, the places that the tool tells, one after the other: "file:line" and, of a
// function inlined there, those that it was inlined at.
std::vector<std::string> read_answer(std::string_view answer, std::size_t addresses) {
  std::vector<std::string> places;
  for (std::string_view line : lines_of(answer)) {
    if (line.starts_with("0x")) {
      places.emplace_back();
      continue;
    }
    line = line.substr(0, line.find(" ("));
    if (places.empty() || line.starts_with("??") || line.ends_with(":?") || line.ends_with(":0")) {
      continue;
    }
    std::string& all = places.back();
    all.append(all.empty() ? "" : ", inlined at ").append(line);
  }
  // Not what was asked for.
  if (places.size() != addresses) places.assign(addresses, {});
  return places;
}

}  // namespace

std::string with_source_lines(const std::string& backtrace) {
  const std::vector<std::string_view> lines = lines_of(backtrace);
  std::map<std::string, std::vector<std::size_t>> frames_of;  // by module
  std::vector<std::string> addresses(lines.size());
  for (std::size_t i = 0; i < std::min(lines.size(), kMostFrames); ++i) {
    FramePlace place = place_in(lines[i]);
    if (!sys::is_plain_file(place.module.c_str())) continue;
    addresses[i] = std::move(place.address);
    frames_of[place.module].push_back(i);
  }
  std::vector<std::string> places(lines.size());
  Asking asking;
  for (const auto& [module, frames] : frames_of) {
    std::vector<std::string> asked;
    for (const std::size_t frame : frames) asked.push_back(addresses[frame]);
    const auto found = read_answer(asking.ask(module, asked), frames.size());
    for (std::size_t i = 0; i < frames.size(); ++i) places[frames[i]] = found[i];
  }
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    text += lines[i];
    if (!places[i].empty()) text.append(" (").append(places[i]).append(")");
    text += '\n';
  }
  // As it came: without an end of the last line if it had none.
  if (!text.empty() && !backtrace.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace brood
