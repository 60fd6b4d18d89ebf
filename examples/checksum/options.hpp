// The command line.
#pragma once

#include <cstddef>
#include <string>

namespace checksum {

struct Options {
  std::string root = "/usr/include";
  std::size_t jobs = 1;
  std::string output;  // empty: standard output
  bool chaos = false;
};

// Ends the program after --help (status 0) and on bad options (status 2).
Options parse_options(int argc, char** argv);

}  // namespace checksum
