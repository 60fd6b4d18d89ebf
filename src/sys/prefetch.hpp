// Asking for memory before it is needed.
#pragma once

namespace brood::sys {

// A hint: this processor will soon write to the line at `where`, which may be any address.
inline void prefetch_for_write(const void* where) noexcept {
#if defined(__x86_64__)
  // The compiler has a word for it, but uses the instruction for reading unless told that every
  // processor knows this one; those that don't do nothing.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(where)));
#else
  __builtin_prefetch(where, 1);
#endif
}

}  // namespace brood::sys
