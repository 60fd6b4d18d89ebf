// Loaded by tasks of crash_report_test.cpp and backtrace_test.cpp.
#include <stdexcept>

namespace {

[[gnu::noinline]] int static_crash(int n) {
  static int* volatile nowhere = nullptr;
  *nowhere = n;
  return n;
}

[[gnu::noinline]] int static_throw(int n) {
  if (n > 0) throw std::out_of_range("in a library");
  return n;
}

}  // namespace

extern "C" [[gnu::visibility("default")]] int crash_in_a_library(int n) {
  return static_crash(n) + n;
}

extern "C" [[gnu::visibility("default")]] int throw_in_a_library(int n) {
  return static_throw(n) + n;
}
