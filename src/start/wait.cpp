#include "brood/wait.hpp"

#include <cerrno>
#include <cstddef>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/poll.hpp"
#include "sys/syscall.hpp"

namespace brood {

namespace {

[[noreturn]] void throw_not_open(std::size_t place) {
  throw SystemError(EBADF, "waiting for object " + std::to_string(place));
}

struct Ready {
  std::vector<std::size_t> places;
  bool any_gone = false;  // a descriptor is readable whose object is not ready
};

Ready find_ready(std::span<const Waitable> objects, std::span<const sys::PollEntry> entries) {
  Ready ready;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (entries[i].invalid()) throw_not_open(i);
    if (!entries[i].ready()) continue;
    if (objects[i].still_ready()) {
      ready.places.push_back(i);
    } else {
      ready.any_gone = true;
    }
  }
  return ready;
}

}  // namespace

std::vector<std::size_t> wait(std::span<const Waitable> objects,
                              std::optional<std::chrono::nanoseconds> timeout) {
  if (objects.empty() && !timeout) {
    throw Error("brood: to wait for no object without a time limit would never end");
  }
  const detail::DeadlineNs deadline =
      timeout ? detail::deadline_after(*timeout) : detail::kNoDeadline;
  std::vector<sys::PollEntry> entries(objects.size() + 1);
  for (;;) {
    for (std::size_t i = 0; i < objects.size(); ++i) {
      entries[i].fd = objects[i].descriptor();
      if (entries[i].fd < 0) throw_not_open(i);
    }
    sys::require(start::poll_serving_signals(entries, deadline), "waiting for several objects");
    Ready ready = find_ready(objects, entries);
    // Whoever tells that an object is ready does so after it was; meanwhile somebody may have taken
    // what was there, and asked for the descriptor to be silent before it was told.
    if (!ready.places.empty() || !ready.any_gone || sys::now_ns() >= deadline) return ready.places;
  }
}

std::vector<std::size_t> wait(std::initializer_list<Waitable> objects,
                              std::optional<std::chrono::nanoseconds> timeout) {
  return wait(std::span(objects.begin(), objects.size()), timeout);
}

}  // namespace brood
