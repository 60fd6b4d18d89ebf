// A stack as it lies in shared memory: by modules and places in them, so that a process that has
// them at other addresses, or not at all, can read it.
//
//   records, one after the other:
//     TraceModule  | its path | its build id     the next number, from 0 on
//     TraceFrame                                 innermost first; its module came before
//
// Each record is whole before the length is raised past it, so what a second crash in the midst of
// writing leaves is a shorter stack. All of it is input.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "sys/atomic.hpp"

namespace brood::shm {

enum class TraceTag : std::uint8_t { module = 1, frame = 2 };

struct TraceModule {
  TraceTag tag;
  std::uint8_t path_bytes;  // what is longer is cut off at the front; none: the program itself
  std::uint8_t build_id_bytes;
};
static_assert(sizeof(TraceModule) == 3);

inline constexpr std::uint8_t kNoModule = 0xff;
struct TraceFrame {
  TraceTag tag;
  std::uint8_t module;                  // kNoModule: the address belongs to none
  std::array<std::uint8_t, 8> address;  // by the module's file, low byte first
};
static_assert(sizeof(TraceFrame) == 10);

inline constexpr std::size_t kMostFrames = 32;
inline constexpr std::size_t kMostModules = 16;

// What a worker's crash handler leaves. `bytes` is how much of it is written; 0: nothing.
struct alignas(64) CrashNote {
  sys::Atomic<std::uint32_t> bytes;
  std::array<std::byte, 2044> trace;
};
static_assert(sizeof(CrashNote) == 2048);

}  // namespace brood::shm
