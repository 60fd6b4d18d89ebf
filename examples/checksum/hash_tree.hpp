// The pool at work: from the files of a tree to their checksums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hash_files.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "tree_walk.hpp"

namespace checksum {

struct Checksum {
  std::string path;
  Digest digest;
};

struct Outcome {
  std::vector<Checksum> checksums;  // sorted by path, byte by byte
  std::vector<Failure> failures;    // the same
  std::uint64_t bytes = 0;          // hashed
  std::uint64_t deaths = 0;         // of workers
};

// Hashes all files under options.root with options.jobs worker processes. Throws
// std::runtime_error if there is no such directory or file, brood::Error if there can be no
// workers.
Outcome hash_tree(const Options& options, Progress& progress);

}  // namespace checksum
