#include "start/process_name.hpp"

namespace brood::start {

namespace {

// Never destroyed: actions at the exit of the program ask for it.
std::string& name_of_this_process() {
  static auto* const name = new std::string("MainProcess");
  return *name;
}

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
