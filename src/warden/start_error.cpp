#include "warden/start_error.hpp"

#include <cerrno>
#include <string>
#include <system_error>

#include "brood/error.hpp"

namespace brood::warden {

void throw_start_error(int error) {
  std::string advice;
  if (error == EAGAIN) {
    advice = "; the limit on processes is reached (see ulimit -u, pids.max)";
  } else if (error == ENOMEM) {
    advice = "; there is not enough memory to copy this process";
  } else if (error == EMFILE || error == ENFILE) {
    advice = "; the limit on open files is reached (see ulimit -n)";
  }
  throw StartError("brood: can't start a process: " + std::generic_category().message(error) +
                   advice);
}

}  // namespace brood::warden
