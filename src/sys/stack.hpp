// The stack of the calling thread, as it can be looked at in a signal handler of a dying process.
#pragma once

#include <cstdint>
#include <string_view>

#include "sys/signals.hpp"

namespace brood::sys {

// An instruction's module, in views of memory that lasts as long as the module is loaded.
struct LoadedCode {
  const char* name = nullptr;      // as the loader knows it; "": the program; nullptr: nobody's
  std::uintptr_t bias = 0;         // address - bias is where it lies by the module's file
  std::string_view build_id = {};  // that the linker gave it, its bytes; empty: none
};
// Async-signal-safe. Without a C library that can tell (glibc 2.35): nobody's.
LoadedCode code_at(std::uintptr_t address) noexcept;

// Whether a stack can be walked here at all.
bool can_walk_stack() noexcept;

// Calls visit(address, context) for each frame, innermost first, until it returns false or the
// frame's memory lies above `end` (0: no end). Of a caller it is the address of the last byte of
// the call, so that it belongs to the line of the call. Async-signal-safe after the first call in
// the process, which may load what it needs.
using VisitFrame = bool (*)(std::uintptr_t address, void* context);
void walk_stack(VisitFrame visit, void* context, std::uintptr_t end) noexcept;

// Where the stack was when it crashed; 0: not known.
std::uintptr_t stack_pointer(const Crash& crash) noexcept;

// The same from the instruction that crashed on; in the handler.
void walk_crashed_stack(const Crash& crash, VisitFrame visit, void* context,
                        std::uintptr_t end) noexcept;

}  // namespace brood::sys
