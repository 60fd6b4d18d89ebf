#include "start/child_main.hpp"

#include <stdio_ext.h>
#include <ext/stdio_sync_filebuf.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "start/backtrace.hpp"
#include "start/demangle.hpp"
#include "start/thrown_trace.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/thrown.hpp"

namespace brood::start {

namespace {

// exit() calls its handlers last registered first: those of the child, then this, and never those
// that the child inherited.
void end_before_inherited_handlers(int status, void* /*context*/) {
  flush_streams();
  sys::exit_now(status);
}

template <class Stream>
void write_out(Stream& stream) noexcept {
  try {
    stream.flush();
  } catch (...) {
    // One that was told to throw can't be written; its bytes are lost with or without us.
  }
}

// Sees into any buffer.
class OpenBuffer : public std::streambuf {
 public:
  static bool holds_text(const std::streambuf* buffer) noexcept {
    return buffer != nullptr && (buffer->*&OpenBuffer::pptr)() != (buffer->*&OpenBuffer::pbase)();
  }
};

// The status of a child whose function threw; what it threw, and where, is on stderr.
int report_uncaught(const std::string& name) noexcept {
  try {
    std::string type = current_exception_type();
    std::string text;
    try {
      throw;
    } catch (const std::exception& e) {
      text = e.what();
    } catch (...) {
      text = "(no text)";
    }
    const std::string backtrace = describe_trace(ThrownTrace::take());
    std::fprintf(stderr, "brood: process %s ended with an uncaught %s: %s\n%s", name.c_str(),
                 type.c_str(), text.c_str(), backtrace.c_str());
  } catch (...) {
    std::fputs("brood: a process ended with an uncaught exception\n", stderr);
  }
  return 1;
}

}  // namespace

int run_user_code(const std::string& name, const std::function<int()>& run) noexcept {
  const std::atomic<std::uintptr_t> own_stack{
      reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0))};
  const ThrownTrace trace(own_stack);
  int status = 0;
  sys::try_watched([&] { status = run(); }, [&] { status = report_uncaught(name); });
  return status;
}

void flush_streams() noexcept {
  // A pool that is a global variable may be made before they are.
  const std::ios_base::Init made;
  write_out(std::cout);
  write_out(std::clog);
  write_out(std::wcout);
  write_out(std::wclog);
  std::fflush(nullptr);
}

void flush_output() noexcept {
  // Unless it is in step with stdout, std::cout keeps text of its own.
  static std::streambuf* known = nullptr;
  static bool keeps_text = false;
  std::streambuf* const now = std::cout.rdbuf();
  if (now != known) {
    known = now;
    keeps_text = dynamic_cast<__gnu_cxx::stdio_sync_filebuf<char>*>(now) == nullptr;
  }
  const bool any_in_cout = keeps_text && OpenBuffer::holds_text(now);
  if (::__fpending(stdout) == 0 && !any_in_cout) {
    // A buffer of the user's may keep it elsewhere.
    if (keeps_text) write_out(std::cout);
    return;
  }
  // That nobody reads it is no reason to die: the task has ended.
  const sys::QuietRefusals quiet;
  std::fflush(stdout);
  if (keeps_text) write_out(std::cout);
}

void become_child(const ChildSettings& settings) noexcept {
  sys::reset_signals();
  if (settings.host_handles_terminal) sys::ignore_terminal_signals();
  if (settings.close_fds) sys::close_all_but(settings.keep);
  sys::redirect_to_null(0);
  if (settings.process_name != nullptr) sys::set_process_name(settings.process_name);
  sys::at_exit_first(end_before_inherited_handlers);
}

void leave_child(int code) { std::exit(code); }

}  // namespace brood::start
