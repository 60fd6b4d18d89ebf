// Where an exception or a crash came from, in the process where it happened.
//
// As text a backtrace has a line a frame, innermost first, at most 32:
//
//   #0 parse(std::string const&) + 0x2f at /usr/bin/program[0x41c3]
//
// that is: the function, and how far in it; the file of the program or library, and the place in
// it, as addr2line and llvm-symbolizer take them. "?" stands for what is not known: a stripped file
// has no names. The library's own frames below the function of a task are left out.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <iosfwd>
#include <string>
#include <utility>
#include <vector>

namespace brood {

// A backtrace that was taken and not read yet.
//
//   Threads:   a value; distinct ones may be used from distinct threads.
//   Blocking:  text() reads the files of the modules for names it has not met before; the rest
//              never.
//   Ownership: its own bytes.
//   Errors:    copying may throw std::bad_alloc. Without memory the text is empty.
//   Death:     nothing depends on the process that it is of.
class Backtrace {
 public:
  Backtrace() noexcept = default;
  explicit Backtrace(std::vector<std::byte> trace) noexcept : trace_(std::move(trace)) {}

  [[nodiscard]] bool empty() const noexcept { return trace_.empty(); }
  [[nodiscard]] std::string text() const noexcept;
  // NOLINTNEXTLINE(google-explicit-constructor,hicpp-explicit-conversions): it is a text
  operator std::string() const noexcept { return text(); }

 private:
  std::vector<std::byte> trace_;  // as src/shm/trace_layout.hpp has it; input
};

std::ostream& operator<<(std::ostream& stream, const Backtrace& backtrace);

// A backtrace's text with the source line after each frame whose file has debug information:
//
//   #0 parse(std::string const&) + 0x2f at /usr/bin/program[0x41c3] (/src/parse.cpp:71)
//
// or, of a function that was inlined there, (/src/token.hpp:12, inlined at /src/parse.cpp:71). By
// llvm-symbolizer if PATH has it, else addr2line; any other text comes back unchanged, and so does
// every text where neither is.
//
//   Threads:   any.
//   Blocking:  until the tool has read the debug information; after 10 s it is given up.
//   Ownership: the tool's process is ended and reaped before this returns. The host's wait() and
//              SIGCHLD never see it.
//   Errors:    std::bad_alloc.
//   Death:     of the tool leaves out its lines.
[[nodiscard]] std::string with_source_lines(const std::string& backtrace);

}  // namespace brood
