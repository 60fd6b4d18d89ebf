#include "batches.hpp"

#include <utility>

namespace checksum {
namespace {

constexpr std::size_t kMostFiles = 64;
constexpr std::uint64_t kMostBytes = std::uint64_t{4} << 20;

}  // namespace

void Batches::look_for(std::size_t files) {
  for (; files > 0 && !all_found_; --files) {
    if (auto file = walk_.next()) {
      add(std::move(*file));
    } else {
      all_found_ = true;
      if (!growing_.paths.empty()) finish_batch();
    }
  }
}

std::optional<Batch> Batches::next() {
  if (full_.empty()) return std::nullopt;
  Batch batch = std::move(full_.front());
  full_.pop_front();
  return batch;
}

void Batches::add(FoundFile file) {
  ++files_found_;
  bytes_found_ += file.bytes;
  if (file.bytes >= kMostBytes) {
    Batch large{.follow_links = walk_.root_is_file()};
    large.paths.push_back(std::move(file.path));
    full_.push_back(std::move(large));
    return;
  }
  growing_.paths.push_back(std::move(file.path));
  growing_bytes_ += file.bytes;
  if (growing_.paths.size() >= kMostFiles || growing_bytes_ >= kMostBytes) finish_batch();
}

void Batches::finish_batch() {
  growing_.follow_links = walk_.root_is_file();
  full_.push_back(std::exchange(growing_, {}));
  growing_bytes_ = 0;
}

}  // namespace checksum
