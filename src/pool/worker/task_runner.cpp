#include "pool/worker/task_runner.hpp"

#include <cstring>

#include "pool/worker/error_reply.hpp"

namespace brood::pool {

using shm::BlockRef;
using shm::ReplyKind;
using shm::WorkerStage;

TaskRunner::TaskRunner(const SupervisorStart& start, shm::OwnerId me, UserCode& user_code,
                       StopSigns& signs, LeaveWishes& wishes) noexcept
    : is_watched_(start.setup->memory_limit_bytes != 0),
      desk_(start.view.desk(me.slot)),
      shared_(start.view.shared()),
      view_(start.view),
      user_code_(user_code),
      wishes_(wishes),
      arenas_(start, me),
      task_(start.view, me, signs, arenas_) {}

void TaskRunner::enter_user_code() noexcept {
  user_code_.enter();
  context_.number = task_.request().number() + element_;
  desk_.stage.store(WorkerStage::running, std::memory_order_relaxed);
}

void TaskRunner::leave_user_code() noexcept {
  user_code_.leave();
  desk_.stage.store(WorkerStage::replying, std::memory_order_relaxed);
}

// ---- a single task

std::span<std::byte> TaskRunner::reply(std::size_t bytes, bool has_handles) {
  shm::TaskState& state = task_.state();
  if (bytes <= shm::kInlineReplyBytes && !has_handles) {
    state.length = static_cast<std::uint32_t>(bytes);
    state.kind = ReplyKind::value_inline;
    return std::span(state.reply).first(bytes);
  }
  state.kind = ReplyKind::value_block;
  return arenas_.allocate_reply(state.reply.data(), bytes);
}

void TaskRunner::keep_for_caller(std::span<const detail::ObjectHandle> handles) {
  arenas_.keep_for_caller(handles);
}

void TaskRunner::fail_task() noexcept {
  shm::TaskState& state = task_.state();
  if (task_.request().cells) {
    // Not even the elements could be read: each of them fails for the same reason.
    if (!cells_.are_open()) {
      state.kind = cells_.are_out_of_reach() ? ReplyKind::none : ReplyKind::corrupt;
      return;
    }
    for (std::uint32_t index = cells_.first(); index < count(); ++index) {
      fail_element(index);
      task_.end_element(index);
    }
    return;
  }
  reply_exception(arenas_, user_code_.take_blame(), task_.count_attempts(),
                  {state.kind, state.reply, &state.length});
}

// ---- the elements of map

std::span<std::byte> TaskRunner::reply_element(std::uint32_t index, std::size_t bytes,
                                               bool in_cell) {
  if (in_cell) {
    cells_.kind(index) = ReplyKind::value_inline;
    return cells_.cell(index).first(bytes);
  }
  cells_.kind(index) = ReplyKind::value_block;
  return arenas_.allocate_reply(cells_.cell(index).data(), bytes);
}

void TaskRunner::attempt_elements(const std::uint32_t& index, void (*call)(void* context),
                                  void* context) {
  sys::try_watched([&] { call(context); }, [&] { fail_element(index); });
}

void TaskRunner::fail_element(std::uint32_t index) noexcept {
  user_code_.come_back();
  reply_exception(arenas_, user_code_.take_blame(), task_.count_attempts(),
                  {cells_.kind(index), cells_.cell(index), nullptr});
  task_.note_failure();
}

detail::ElementEnd TaskRunner::finish_element(std::uint32_t index) noexcept {
  using Judgement = ClaimedTask::Judgement;
  const Judgement judgement = task_.judge();
  if (judgement != Judgement::stands) {
    arenas_.drop_block();
    cells_.kind(index) = ReplyKind::none;
  }
  if (judgement == Judgement::withdrawn) return detail::ElementEnd::stop;
  if (judgement == Judgement::late) {
    const shm::LateNote note{task_.state().attempts.load(std::memory_order_relaxed), 0};
    std::memcpy(cells_.cell(index).data(), &note, sizeof note);
    cells_.kind(index) = ReplyKind::expired;
    count_timed_out(view_);
  }
  if (judgement != Judgement::again) task_.end_element(index);
  desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
  if (judgement != Judgement::again) {
    element_ = index + 1;
    wishes_.count_served();
    if (wishes_.wears() && element_ < count()) yields_ = wishes_.has_worn();
  }
  task_.begin_attempt();
  if (judgement == Judgement::again) return detail::ElementEnd::again;
  return yields_ ? detail::ElementEnd::stop : detail::ElementEnd::next;
}

// ---- bound values

std::span<const std::byte> TaskRunner::bound_bytes(std::uint64_t block) const {
  return arenas_.bound_values(BlockRef{block});
}

std::shared_ptr<const void>& TaskRunner::bound_cache(std::uint64_t id) {
  // Bound values may be large: those of the last few bind_fronts are kept.
  constexpr std::size_t kMostBound = 16;
  if (bound_.size() >= kMostBound && !bound_.contains(id)) bound_.clear();
  return bound_[id];
}

}  // namespace brood::pool
