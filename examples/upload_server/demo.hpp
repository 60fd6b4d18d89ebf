// Drives a server: uploads of all kinds from many clients at once.
#pragma once

#include <cstddef>

#include "server.hpp"

namespace upload_server {

// Prints what became of the uploads. True if each was answered as its kind has to be, in time.
bool run_demo(std::size_t uploads, const Limits& limits);

}  // namespace upload_server
