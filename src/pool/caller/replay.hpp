// Running a kept task again: brood/replay.hpp.
#pragma once

#include <string>

namespace brood::pool {

// As a program that was called for nothing else. Does not return.
void replay_and_exit(const std::string& file);

}  // namespace brood::pool
