// The atomics of all words that processes share.
//
// They are a parameter of the build: test/schedule compiles the shared protocols a second time,
// with atomics (named by BROOD_ATOMICS) that choose every interleaving of the participants and
// every value that C++'s memory model lets a load return. docs/testing.md says how.
#pragma once

#ifdef BROOD_ATOMICS
#include BROOD_ATOMICS
#else

#include <atomic>

namespace brood::sys {

template <class T>
using Atomic = std::atomic<T>;

}  // namespace brood::sys

#endif
