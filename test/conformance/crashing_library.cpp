// Loaded by a task of crash_report_test.cpp.
namespace {

[[gnu::noinline]] int static_crash(int n) {
  static int* volatile nowhere = nullptr;
  *nowhere = n;
  return n;
}

}  // namespace

extern "C" [[gnu::visibility("default")]] int crash_in_a_library(int n) {
  return static_crash(n) + n;
}
