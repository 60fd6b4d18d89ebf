// Shared memory that a handle gives direct access to.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "brood/detail/object.hpp"

namespace brood::detail {

// Where the memory behind a handle lies in this process. To ask is as cheap as two loads, and still
// notices that the process is another one since a fork.
//
//   Threads:   any; a value as shared_ptr is. Blocking: never.
//   Ownership: of a part of the hold, so the memory stays while this lives.
//   Errors:    StaleHandle from data(): empty, or of a process that this one was forked from, as
//              ObjectHandle says.
//   Death:     as ObjectHandle.
class HeldMemory {
 public:
  HeldMemory() noexcept = default;
  HeldMemory(ObjectHandle handle, std::byte* data) noexcept;
  HeldMemory(const HeldMemory& other) noexcept
      : handle_(other.handle_),
        data_(other.data_),
        word_(other.word_),
        token_(other.token_.load(std::memory_order_relaxed)) {}
  HeldMemory(HeldMemory&& other) noexcept
      : handle_(std::exchange(other.handle_, {})),
        data_(std::exchange(other.data_, nullptr)),
        word_(std::exchange(other.word_, &no_process)),
        token_(other.token_.exchange(1, std::memory_order_relaxed)) {}
  HeldMemory& operator=(HeldMemory other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(data_, other.data_);
    std::swap(word_, other.word_);
    token_.store(other.token_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return *this;
  }
  ~HeldMemory() = default;

  [[nodiscard]] std::byte* data() const {
    if (word_->load(std::memory_order_relaxed) != token_.load(std::memory_order_relaxed))
        [[unlikely]] {
      look_again();
    }
    return data_;
  }
  [[nodiscard]] const ObjectHandle& handle() const noexcept { return handle_; }

 private:
  void look_again() const;

  static inline constinit const std::atomic<std::uint64_t> no_process{0};

  ObjectHandle handle_;
  std::byte* data_ = nullptr;
  const std::atomic<std::uint64_t>* word_ = &no_process;  // tells which process this is
  mutable std::atomic<std::uint64_t> token_{1};           // of the process that has looked
};

}  // namespace brood::detail
