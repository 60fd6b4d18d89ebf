#include "brood/detail/held_memory.hpp"

#include "brood/error.hpp"
#include "shared/object_hold.hpp"
#include "sys/identity.hpp"

namespace brood::detail {

HeldMemory::HeldMemory(ObjectHandle handle, std::byte* data) noexcept
    : handle_(std::move(handle)),
      data_(data),
      word_(&sys::process_token_word()),
      token_(sys::process_token()) {}

void HeldMemory::look_again() const {
  if (!handle_) throw StaleHandle("brood: this handle names nothing: it was moved from");
  static_cast<void>(handle_.hold()->use());
  token_.store(sys::process_token(), std::memory_order_relaxed);
}

}  // namespace brood::detail
