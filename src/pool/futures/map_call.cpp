#include "brood/detail/map_call.hpp"

#include <algorithm>
#include <ranges>
#include <utility>

#include "brood/error.hpp"

namespace brood::detail {

namespace {

constexpr std::size_t kChunksPerWorker = 8;
constexpr std::size_t kMostChunks = std::size_t{1} << 16;
constexpr std::size_t kMostElements = std::size_t{1} << 24;
constexpr std::size_t kGrowth = 16;
constexpr std::int64_t kTellingUs = 200;  // what takes less tells little
constexpr std::chrono::milliseconds kTrial{2};

}  // namespace

TaskEnd await_end(PoolCore& core, TaskTicket task, DeadlineNs deadline) {
  try {
    return {core.wait(task, deadline), nullptr};
  } catch (const PoolClosed&) {
    return {false, std::current_exception()};
  } catch (const BrokenPool&) {
    return {false, std::current_exception()};
  } catch (const FamilyBroken&) {
    return {false, std::current_exception()};
  }
}

ChunkPlan::ChunkPlan(PoolCore& core, std::size_t elements, std::size_t fixed)
    : core_(core), trial_end_(deadline_after(kTrial)), left_(elements), is_fixed_(fixed != 0) {
  const auto share = [elements](std::size_t parts) {
    return std::clamp<std::size_t>((elements + parts - 1) / parts, 1, kMostElements);
  };
  if (is_fixed_) {
    size_ = least_ = most_ = std::min(fixed, kMostElements);
  } else {
    least_ = share(kMostChunks);
    most_ = std::max(share(core.workers() * kChunksPerWorker), least_);
    size_ = least_;
  }
  is_tried_ = least_ < most_;
}

std::uint32_t ChunkPlan::next() {
  if (left_ == 0) return 0;
  // More, if it has fewer workers by now.
  if (is_tried_ && round_ >= core_.workers()) learn();
  const std::size_t size = is_tried_ ? size_ : size_near_the_end();
  return static_cast<std::uint32_t>(std::min(size, left_));
}

void ChunkPlan::submitted(TaskTicket task, std::uint32_t elements) noexcept {
  left_ -= elements;
  if (round_++ == 0) first_ = task;
}

void ChunkPlan::learn() {
  round_ = 0;
  if (!core_.wait(first_, trial_end_)) {
    // Its elements take long; or the workers have other things to do, and nothing can be said.
    is_tried_ = false;
    size_ = core_.is_pending(first_) ? most_ : least_;
    return;
  }
  const auto took = std::max<std::int64_t>(core_.busy_time(first_).count(), 1);
  const auto wanted =
      static_cast<std::size_t>(kWantedChunkTime.count()) * size_ / static_cast<std::size_t>(took);
  is_tried_ = took < kTellingUs && size_ < most_;
  size_ = std::clamp(is_tried_ ? std::min(size_ * kGrowth, wanted) : wanted, least_, most_);
}

// The last ones are smaller, so that all workers end together.
std::size_t ChunkPlan::size_near_the_end() const noexcept {
  if (is_fixed_) return size_;
  return std::clamp<std::size_t>(left_ / (2 * core_.workers()), least_, std::max(size_, least_));
}

MapChunks::MapChunks(std::shared_ptr<PoolCore> core) noexcept : core_(std::move(core)) {}

MapChunks::~MapChunks() {
  for (const Chunk& chunk : chunks_) core_->release(chunk.task);
}

bool MapChunks::cancel() noexcept {
  bool any = false;
  // The last first: no worker is to take up one that is cancelled a moment later.
  for (const Chunk& chunk : chunks_ | std::views::reverse) {
    const bool cancelled = core_->cancel(chunk.task);
    any = any || (cancelled && core_->elements_done(chunk.task) < chunk.elements);
  }
  return any;
}

bool MapChunks::wait(DeadlineNs deadline) {
  return std::ranges::all_of(chunks_, [&](const Chunk& chunk) {
    const TaskEnd end = await_end(*core_, chunk.task, deadline);
    return end.has_ended || end.never != nullptr;
  });
}

bool MapChunks::ready() noexcept {
  while (ended_ < chunks_.size() && core_->ready(chunks_[ended_].task)) ++ended_;
  return ended_ == chunks_.size();
}

std::size_t MapChunks::done() const noexcept {
  std::size_t count = 0;
  for (const Chunk& chunk : chunks_) {
    count += std::min(core_->elements_done(chunk.task), chunk.elements);
  }
  return count;
}

std::size_t MapChunks::failed() {
  std::size_t count = 0;
  for (Chunk& chunk : chunks_) {
    if (!chunk.failed && core_->ready(chunk.task)) chunk.failed = count_failed(chunk);
    count += chunk.failed.value_or(0);
  }
  return count;
}

std::uint32_t MapChunks::count_failed(const Chunk& chunk) const {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < chunk.elements; ++i) {
    try {
      const TaskReply reply = core_->reply_of_element(chunk.task, i);
      count += reply.kind != TaskReply::Kind::value ? 1U : 0U;
    } catch (const Error&) {
      return chunk.elements;  // the pool ended before the chunk did
    }
  }
  return count;
}

std::vector<TaskTicket> MapChunks::tasks() const {
  std::vector<TaskTicket> tasks;
  for (const Chunk& chunk : chunks_) tasks.push_back(chunk.task);
  return tasks;
}

void MapChunks::expect(std::size_t elements, const Progress& progress) {
  elements_ = elements;
  if (progress.wanted()) meter_.emplace(progress, elements, core_->deaths());
}

void MapChunks::add(TaskTicket task, std::uint32_t elements) {
  chunks_.push_back({task, elements});
  report_if_due();  // making and sending the elements may take long
}

std::exception_ptr MapChunks::await(const Chunk& chunk, DeadlineNs deadline) {
  for (;;) {
    const DeadlineNs next = meter_ ? meter_->next_ns() : kNoDeadline;
    const TaskEnd end = await_end(*core_, chunk.task, std::min(deadline, next));
    report_if_due();
    if (end.has_ended || end.never != nullptr) return end.never;
    if (next >= deadline) throw TimeoutError("brood: map did not end in time");
  }
}

void MapChunks::tell_the_end() {
  if (meter_) meter_->report(elements_, core_->deaths());
}

void MapChunks::report_if_due() {
  if (meter_ && deadline_after({}) >= meter_->next_ns()) meter_->report(done(), core_->deaths());
}

}  // namespace brood::detail
