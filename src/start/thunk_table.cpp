#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "start/code_layout.hpp"
#include "start/seal.hpp"
#include "sys/random.hpp"

namespace brood::detail {

namespace {

constexpr std::size_t kChunkThunks = 1024;
constexpr std::size_t kMaxChunks = 1024;

// Chunks never move, so that readers need no lock.
struct ThunkTable {
  std::mutex growing;
  std::array<std::atomic<Thunk*>, kMaxChunks> chunks{};
  std::atomic<ThunkId> count{0};
};

ThunkTable& table() noexcept {
  // Made by the first static initialiser that needs it and never destroyed.
  // Without memory for it there is no program: noexcept is right to end it.
  static auto* const the_table = new ThunkTable;  // NOLINT(bugprone-unhandled-exception-at-new)
  return *the_table;
}

start::SealKey& the_key() noexcept {
  static start::SealKey key = [] {
    start::SealKey fresh{};
    sys::random_bytes(std::as_writable_bytes(std::span(&fresh, 1)));
    return fresh;
  }();
  return key;
}

// Drawn before main, thus before any fork: the whole family has the same key.
[[maybe_unused]] const start::SealKey& key_drawn_early = the_key();

// A keyed mixing of 64 bits (the finaliser of SplitMix64, twice). It has to stand up to accidents,
// which is what overwritten memory is.
std::uint64_t seal_of(std::uint64_t address) noexcept {
  const start::SealKey& key = the_key();
  std::uint64_t x = address ^ key.first;
  for (const std::uint64_t round : {key.second, key.first}) {
    x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
    x = (x ^ (x >> 31U)) + round;
  }
  return x;
}

}  // namespace

ThunkId register_thunk(Thunk thunk) noexcept {
  ThunkTable& all = table();
  const std::lock_guard lock(all.growing);
  const ThunkId index = all.count.load(std::memory_order_relaxed);
  if (index == kChunkThunks * kMaxChunks) {
    std::fputs("brood: the program names more than 2^20 kinds of tasks\n", stderr);
    std::abort();
  }
  std::atomic<Thunk*>& chunk = all.chunks[index / kChunkThunks];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    // As above: who can't register has no code to run.
    auto* const fresh = new Thunk[kChunkThunks];  // NOLINT(bugprone-unhandled-exception-at-new)
    chunk.store(fresh, std::memory_order_release);
  }
  chunk.load(std::memory_order_relaxed)[index % kChunkThunks] = thunk;
  all.count.store(index + 1, std::memory_order_release);
  return index + 1;
}

Thunk find_thunk(ThunkId id) noexcept {
  const ThunkTable& all = table();
  if (id == 0 || id > all.count.load(std::memory_order_acquire)) return {};
  const ThunkId index = id - 1;
  return all.chunks[index / kChunkThunks].load(std::memory_order_acquire)[index % kChunkThunks];
}

ThunkId thunk_count() noexcept { return table().count.load(std::memory_order_acquire); }

SealedFunction seal_function(void (*function)()) {
  const auto address = start::to_common_address(reinterpret_cast<std::uint64_t>(function));
  return {address, seal_of(address)};
}

void (*open_function(const SealedFunction& sealed))() {
  if (sealed.address == 0 || sealed.seal != seal_of(sealed.address)) {
    throw DecodeError(
        "the address of the function to call did not come from this program as it is now (is its "
        "pool or process a global? one that is a global variable is made before main())");
  }
  return reinterpret_cast<void (*)()>(start::to_own_address(sealed.address));
}

}  // namespace brood::detail

namespace brood::start {

SealKey seal_key() noexcept { return detail::the_key(); }
void set_seal_key(const SealKey& key) noexcept { detail::the_key() = key; }

}  // namespace brood::start
