// What imap() has read ahead (brood/detail/lazy_map.hpp).
#include <algorithm>

#include "brood/detail/lazy_map.hpp"
#include "brood/detail/map_call.hpp"
#include "brood/error.hpp"

namespace brood::detail {

namespace {

// Each worker has one to run, one to take up next, and two while the caller is busy.
constexpr std::size_t kChunksPerWorker = 4;
// No more than can lie around unread.
constexpr std::size_t kMostElements = 1024;
constexpr std::chrono::milliseconds kPatience{1};

bool tells_of_the_end(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PoolClosed&) {
    return true;
  } catch (const BrokenPool&) {
    return true;
  } catch (const FamilyBroken&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

LazyChunks::LazyChunks(std::shared_ptr<PoolCore> core, const LazyOptions& options)
    : core_(std::move(core)),
      timeout_(options.timeout),
      size_(std::max<std::size_t>(options.chunk_size, 1)),
      is_fixed_(options.chunk_size != 0),
      ended_(options.ordered ? nullptr : CompletionCore::make()) {}

LazyChunks::~LazyChunks() {
  for (const auto& [first, chunk] : ahead_) release(chunk);
}

std::size_t LazyChunks::wanted() const noexcept {
  if (input_ended_ || ahead_.size() >= core_->workers() * kChunksPerWorker) return 0;
  return size_;
}

DeadlineNs LazyChunks::patience() const noexcept {
  return is_fixed_ || size_ == 1 ? kNoDeadline : deadline_after(kPatience);
}

void LazyChunks::keep(TaskTicket task, std::uint32_t elements) {
  const std::size_t first = insert({task, elements, nullptr});
  if (ended_ == nullptr) return;
  try {
    ended_->add(core_, task, first);
  } catch (...) {
    ahead_.at(first).error = std::current_exception();
    refused_.push_back(first);
  }
}

bool LazyChunks::refuse(std::exception_ptr error, std::uint32_t elements) {
  if (tells_of_the_end(error)) {
    end_with(std::move(error));
    return false;
  }
  if (elements == 1) {
    const std::size_t first = insert({{}, 1, std::move(error)});
    if (ended_ != nullptr) refused_.push_back(first);
  }
  return true;
}

std::size_t LazyChunks::insert(Chunk chunk) {
  const std::size_t first = read_;
  const std::uint32_t elements = chunk.elements;
  ahead_.emplace(first, std::move(chunk));
  read_ += elements;
  return first;
}

void LazyChunks::end_with(std::exception_ptr error) noexcept {
  input_error_ = std::move(error);
  input_ended_ = true;
}

std::optional<LazyChunks::Place> LazyChunks::next() {
  if (ahead_.empty()) {
    if (input_error_ == nullptr) return std::nullopt;
    return Place{{}, 0, read_++, std::exchange(input_error_, nullptr)};
  }
  if (!current_) current_ = await_chunk();
  const Chunk& chunk = ahead_.at(*current_);
  return Place{chunk.task, taken_, *current_ + taken_, chunk.error};
}

void LazyChunks::leave() {
  if (!current_) return;  // it was the input's end
  const auto at = ahead_.find(*current_);
  if (++taken_ != at->second.elements) return;
  release(at->second);
  ahead_.erase(at);
  current_.reset();
  taken_ = 0;
}

// The position of the chunk whose results come next.
std::size_t LazyChunks::await_chunk() {
  const DeadlineNs deadline = timeout_ ? deadline_after(*timeout_) : kNoDeadline;
  if (!told_) told_ = first_told(deadline);
  if (told_ && has_ended(ahead_.at(*told_), deadline)) return *std::exchange(told_, std::nullopt);
  throw TimeoutError("brood: the next result of imap did not come in time");
}

// Those are told of, too, that never end, since the pool has.
std::optional<std::size_t> LazyChunks::first_told(DeadlineNs deadline) {
  if (ended_ == nullptr) return ahead_.begin()->first;
  if (refused_.empty()) return ended_->next_until(deadline);
  const std::size_t first = refused_.back();
  refused_.pop_back();
  return first;
}

bool LazyChunks::has_ended(Chunk& chunk, DeadlineNs deadline) {
  if (chunk.error != nullptr) return true;
  TaskEnd end = await_end(*core_, chunk.task, deadline);
  chunk.error = std::move(end.never);
  if (end.has_ended) learn(core_->busy_time(chunk.task), chunk.elements);
  return end.has_ended || chunk.error != nullptr;
}

void LazyChunks::learn(std::chrono::microseconds took, std::size_t elements) noexcept {
  if (is_fixed_ || took.count() == 0) return;
  const auto wanted = static_cast<std::size_t>(kWantedChunkTime.count()) * elements /
                      static_cast<std::size_t>(took.count());
  size_ = std::clamp<std::size_t>(std::min(wanted, size_ * 2), 1, kMostElements);
}

void LazyChunks::release(const Chunk& chunk) noexcept {
  if (chunk.task.generation != 0) core_->release(chunk.task);
}

}  // namespace brood::detail
