// What the caller checks and keeps of callables.
#include "brood/detail/callable.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>

#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/procfs.hpp"

namespace brood::detail {

namespace {

// Addresses that a process may have: above the page of null pointers, below the kernel's half.
constexpr std::uintptr_t kLowestAddress = 4096;
constexpr std::uintptr_t kHighestAddress = (std::uintptr_t{1} << 47) - 1;

// The private writable memory of this process, read again when it may have changed.
class MemoryMap {
 public:
  bool contains(std::uintptr_t address) {
    // Most numbers are no address of anything.
    if (!sys::is_mapped(address)) return false;
    const std::lock_guard lock(mutex_);
    if (find(address)) return true;
    std::optional<std::vector<sys::MemoryRange>> now = sys::private_writable_memory();
    // Better to refuse a number that looks like an address than to send an address.
    if (!now) return true;
    ranges_ = std::move(*now);
    return find(address);
  }

 private:
  [[nodiscard]] bool find(std::uintptr_t address) const {
    const auto after = std::ranges::upper_bound(ranges_, address, {}, &sys::MemoryRange::begin);
    return after != ranges_.begin() && address < std::prev(after)->end;
  }

  std::mutex mutex_;
  std::vector<sys::MemoryRange> ranges_;
};

MemoryMap& memory_map() {
  static auto* const map = new MemoryMap;
  return *map;
}

[[noreturn]] void refuse(std::size_t at, std::string_view name, bool is_private) {
  const std::string what =
      is_private ? "this process's own memory" : "this program's constants or code";
  const std::string why =
      is_private ? ""
                 : ". They lie elsewhere in a process that is executed afresh: under "
                   "StartMethod::spawn, and to run again what PoolOptions::keep_failed keeps";
  throw NotSendable(
      "brood: this callable can't be sent: it captures a pointer, reference or view (string_view, "
      "span) of " +
      what + " (at byte " + std::to_string(at) + " of " + std::string(name) + ")" + why +
      ". Send what it refers to: plain data captured by value, anything else as an argument, or "
      "bound with brood::bind_front");
}

}  // namespace

void refuse_private_pointers(std::span<const std::byte> bytes, std::string_view name,
                             std::size_t alignment, Addresses there) {
  const std::size_t step = std::clamp<std::size_t>(alignment & ~std::size_t{3}, 1, alignof(void*));
  for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= bytes.size(); at += step) {
    std::uintptr_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (word < kLowestAddress || word > kHighestAddress) continue;
    const bool is_private = memory_map().contains(word);
    if (is_private || (there == Addresses::of_its_own && sys::is_mapped(word))) {
      refuse(at, name, is_private);
    }
  }
}

BoundBlob::BoundBlob(std::size_t size, EncodeFn encode) : size_(size), encode_(std::move(encode)) {
  static std::atomic<std::uint64_t> next{1};
  // Distinct in all processes of the family: a worker's cache outlives its tasks.
  id_ = sys::process_token() + (next.fetch_add(1, std::memory_order_relaxed) << 20U);
}

BoundBlob::~BoundBlob() {
  for (const Placed& placed : placed_) placed.free(placed.block);
}

std::uint64_t BoundBlob::block_for(std::uint64_t pool, const std::function<std::uint64_t()>& make,
                                   FreeFn free) const {
  const std::lock_guard lock(mutex_);
  for (const Placed& placed : placed_) {
    if (placed.pool == pool) return placed.block;
  }
  const std::uint64_t block = make();
  placed_.push_back({pool, block, std::move(free)});
  return block;
}

}  // namespace brood::detail
