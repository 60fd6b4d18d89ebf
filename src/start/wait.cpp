#include "brood/wait.hpp"

#include <cerrno>
#include <cstddef>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "start/waits.hpp"
#include "sys/poll.hpp"
#include "sys/syscall.hpp"

namespace brood {

namespace {

[[noreturn]] void throw_not_open(std::size_t place) {
  throw SystemError(EBADF, "waiting for object " + std::to_string(place));
}

std::vector<std::size_t> places_of_ready(std::span<const sys::PollEntry> entries) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].invalid()) throw_not_open(i);
    if (entries[i].ready()) places.push_back(i);
  }
  return places;
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
  for (std::size_t i = 0; i < objects.size(); ++i) {
    entries[i].fd = objects[i].descriptor();
    if (entries[i].fd < 0) throw_not_open(i);
  }
  sys::require(start::poll_serving_signals(entries, deadline), "waiting for several objects");
  return places_of_ready(std::span(entries).first(objects.size()));
}

std::vector<std::size_t> wait(std::initializer_list<Waitable> objects,
                              std::optional<std::chrono::nanoseconds> timeout) {
  return wait(std::span(objects.begin(), objects.size()), timeout);
}

}  // namespace brood
