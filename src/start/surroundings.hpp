// What a process is to have besides its function: the caller's surroundings, changed by its
// options.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "brood/process_options.hpp"
#include "sys/fd.hpp"
#include "sys/surroundings.hpp"

namespace brood::start {

// What can be said in bytes.
struct Surroundings {
  std::vector<std::string> environment;
  std::vector<sys::ResourceLimit> limits;  // by number
  std::vector<std::uint64_t> affinity;
  std::int32_t niceness = 0;
  std::vector<std::int32_t> kept;  // the numbers that the kept descriptors are to have
};

// And what can't: `output` and `errors` are -1 if the stream is closed. Those that were opened for
// the purpose are owned here.
struct StartDescriptors {
  sys::Fd directory;
  int output = 1;
  int errors = 2;
  std::vector<int> kept;
  sys::Fd captured_output;
  sys::Fd captured_errors;
  sys::Fd nowhere;
};

struct Preparation {
  Surroundings surroundings;
  StartDescriptors descriptors;
};

// Of the calling process as it is now, with the options applied. Throws StartError naming the
// option that can't be.
Preparation prepare(const ProcessOptions& options);

// Whether a copy of the caller differs from what is wanted.
bool changes_anything(const ProcessOptions& options) noexcept;

// In the child; they throw std::runtime_error naming what is refused. take_descriptors is for a
// copy of the caller.
void take_descriptors(const StartDescriptors& wanted);
// The limits, and all else. A process with a keeper takes the limits itself: the keeper has to go
// on making processes and opening files.
void take_limits(const Surroundings& wanted);
void take_on(const Surroundings& wanted);

}  // namespace brood::start
