// The simplest of shared objects: a number, for tests of what all handles have in common.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/object.hpp"
#include "shared/object_hold.hpp"

namespace brood::test {

class SharedWord {
 public:
  static constexpr auto kKind = static_cast<std::uint32_t>(shm::ObjectKind::value);
  static std::uint64_t object_type() { return 0x7465'7374; }

  explicit SharedWord(std::uint64_t value) {
    auto hold =
        detail::ObjectHold::make(shm::ObjectKind::value, object_type(), sizeof(std::uint64_t));
    reinterpret_cast<sys::Atomic<std::uint64_t>*>(hold->use().body.data())->store(value);
    hold->publish();
    handle_ = detail::ObjectHandle(std::move(hold));
  }
  explicit SharedWord(detail::ObjectHandle handle) : handle_(std::move(handle)) {}

  [[nodiscard]] sys::Atomic<std::uint64_t>& word() const {
    return *reinterpret_cast<sys::Atomic<std::uint64_t>*>(handle_.hold()->use().body.data());
  }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const { return handle_; }

 private:
  detail::ObjectHandle handle_;
};

}  // namespace brood::test

template <>
struct brood::detail::Codec<brood::test::SharedWord>
    : brood::detail::HandleCodec<brood::test::SharedWord> {};
