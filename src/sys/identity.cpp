#include "sys/identity.hpp"

#include <atomic>

#include "sys/clock.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"

namespace brood::sys {

namespace {

// The page is mapped once and inherited; its content is not.
std::atomic<std::uint64_t>* token_page() noexcept {
  static std::atomic<std::uint64_t>* const page =
      static_cast<std::atomic<std::uint64_t>*>(map_wiped_on_fork());
  return page;
}

// Made before there are threads: the guard of a static object that one of them is just making would
// stay locked in a process that another one forks.
[[maybe_unused]] const bool made_early = (static_cast<void>(token_page()), true);

std::uint64_t new_token() noexcept {
  // Process ids come back, but not within the same nanosecond-granular time.
  const auto pid = static_cast<std::uint64_t>(process_id());
  return (pid << 40) ^ (static_cast<std::uint64_t>(now_ns()) | 1U);
}

}  // namespace

std::uint64_t process_token() noexcept {
  std::atomic<std::uint64_t>* page = token_page();
  // A system that can't wipe pages: the process id alone, at the price of a call.
  if (page == nullptr) return static_cast<std::uint64_t>(process_id());
  std::uint64_t token = page->load(std::memory_order_acquire);
  if (token != 0) return token;
  const std::uint64_t mine = new_token();
  return page->compare_exchange_strong(token, mine, std::memory_order_acq_rel) ? mine : token;
}

const std::atomic<std::uint64_t>& process_token_word() noexcept {
  static constinit std::atomic<std::uint64_t> nothing{0};
  const std::atomic<std::uint64_t>* page = token_page();
  return page == nullptr ? nothing : *page;
}

}  // namespace brood::sys
