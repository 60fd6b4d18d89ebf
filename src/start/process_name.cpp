#include "start/process_name.hpp"

namespace brood::start {

namespace {

// Never destroyed: actions at the exit of the program ask for it.
std::string& name_of_this_process() {
  static auto* const name = new std::string("MainProcess");
  return *name;
}

// Made before there are threads: the guard of a static object that one of them is just making would
// stay locked in a process that another one forks.
[[maybe_unused]] const bool made_early = (static_cast<void>(name_of_this_process()), true);

}  // namespace

const std::string& process_name() { return name_of_this_process(); }
void set_process_name(std::string_view name) noexcept {
  try {
    name_of_this_process() = name;
  } catch (...) {
    // Better a process with a wrong name than none.
  }
}

}  // namespace brood::start
