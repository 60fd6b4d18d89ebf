// Sleeping on bells as waits do (src/shared/waiting.hpp), in scenes.
#pragma once

#include "schedule/explorer.hpp"
#include "shm/bell.hpp"
#include "sys/futex.hpp"

namespace brood::schedule {

inline constexpr shm::OwnerId kFirst{1, 7};
inline constexpr shm::OwnerId kSecond{2, 7};
inline constexpr shm::OwnerId kThird{3, 7};

template <class Done>
void sleep_until(shm::Bell& bell, Done&& done) {
  for (;;) {
    const std::uint32_t value = bell.listen();
    if (done()) return;
    sys::futex_wait(&bell.word, value, sys::kForever);
  }
}

}  // namespace brood::schedule
