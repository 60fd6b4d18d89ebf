// How files become tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "hash_files.hpp"
#include "tree_walk.hpp"

namespace checksum {

// Puts small files together, so that a task is worth its cost, and gives large files a task of
// their own, so that all workers have something to do to the end.
class Batches {
 public:
  explicit Batches(TreeWalk& walk) : walk_(walk) {}

  // Looks for up to `files` more files.
  void look_for(std::size_t files);
  // Nothing while no batch is full. After the end of the walk the last one counts as full.
  std::optional<Batch> next();

  [[nodiscard]] bool all_found() const { return all_found_; }
  // Everything was found and given out.
  [[nodiscard]] bool finished() const { return all_found_ && full_.empty(); }
  [[nodiscard]] std::size_t files_found() const { return files_found_; }
  [[nodiscard]] std::uint64_t bytes_found() const { return bytes_found_; }

 private:
  void add(FoundFile file);
  void finish_batch();

  TreeWalk& walk_;
  Batch growing_;
  std::uint64_t growing_bytes_ = 0;
  std::deque<Batch> full_;
  bool all_found_ = false;
  std::size_t files_found_ = 0;
  std::uint64_t bytes_found_ = 0;
};

}  // namespace checksum
