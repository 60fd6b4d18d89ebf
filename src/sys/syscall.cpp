#include "sys/syscall.hpp"

#include <unistd.h>

#include "brood/error.hpp"

namespace brood::sys {

namespace detail {
KernelFn current_kernel = kernel;
}

long kernel(long nr, long a, long b, long c, long d, long e, long f) noexcept {
#if defined(__x86_64__)
  // Inline, so that errno of the interrupted or sharing thread is never touched: this runs in
  // signal handlers and in children that share the caller's memory.
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#else
  const int saved = errno;
  const long result = ::syscall(nr, a, b, c, d, e, f);
  const long value = result == -1 ? -errno : result;
  errno = saved;
  return value;
#endif
}

KernelFn replace_kernel(KernelFn fn) noexcept {
  const KernelFn old = detail::current_kernel;
  detail::current_kernel = fn;
  return old;
}

long require(long result, const char* doing) {
  if (result < 0) throw SystemError(static_cast<int>(-result), doing);
  return result;
}

}  // namespace brood::sys
