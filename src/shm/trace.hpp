// Writing and reading the stacks of shm/trace_layout.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shm/trace_layout.hpp"
#include "sys/signals.hpp"

namespace brood::shm {

// Threads: one. Blocking: never. Ownership: none. Errors: what does not fit is left out.
// Death: at any instruction leaves a shorter stack.
class TraceWriter {
 public:
  // `written` counts the bytes, for readers elsewhere.
  TraceWriter(std::span<std::byte> room, sys::Atomic<std::uint32_t>& written) noexcept
      : room_(room), written_(written) {}

  // Both async-signal-safe once either has run in the process. `end` is as for sys::walk_stack.
  void write_crashed(const sys::Crash& crash, std::uintptr_t end) noexcept;
  void write_own(std::uintptr_t end) noexcept;
  // In a sys::ThrowHook.
  void write_thrown(std::uintptr_t end) noexcept;

 private:
  static bool add_frame(std::uintptr_t address, void* self) noexcept;
  bool add(std::uintptr_t address) noexcept;
  std::uint8_t module_of(const char* name, std::string_view build_id, std::uintptr_t bias) noexcept;
  bool append(std::span<const std::byte> bytes) noexcept;

  std::span<std::byte> room_;
  sys::Atomic<std::uint32_t>& written_;
  std::size_t used_ = 0;
  std::size_t frames_ = 0;
  std::size_t modules_ = 0;
  std::array<std::uintptr_t, kMostModules> biases_{};
};

struct ReadFrame {
  std::size_t module = SIZE_MAX;  // its place among the modules; SIZE_MAX: none
  std::uint64_t address = 0;
};
struct ReadModule {
  std::string path;  // empty: the program itself
  std::string build_id;
};
struct ReadTrace {
  std::vector<ReadModule> modules;
  std::vector<ReadFrame> frames;
};
// As far as it makes sense. Errors: std::bad_alloc.
ReadTrace read_trace(std::span<const std::byte> bytes);

}  // namespace brood::shm
