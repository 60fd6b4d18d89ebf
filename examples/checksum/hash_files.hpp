// The task: what the workers do.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace checksum {

using Digest = std::array<std::uint8_t, 32>;

// Plain aggregates of standard types go to a worker and back as they are.
struct Batch {
  std::vector<std::string> paths;
  bool follow_links = false;  // in the last part of a path
};

struct HashedFile {
  Digest digest{};
  std::uint64_t bytes = 0;
  std::string error;  // why there is no digest; empty if there is one
};

// SHA-256 of each file, in the order of the paths. A file that can't be read, or changes while it
// is being read, has an error; the others are not affected. Throws if libcrypto has no SHA-256.
std::vector<HashedFile> hash_files(const Batch& batch);

}  // namespace checksum
