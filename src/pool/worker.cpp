#include "pool/worker.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_map>
#include <utility>

#include "brood/detail/object.hpp"
#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "pool/call.hpp"
#include "pool/exception.hpp"
#include "pool/task.hpp"
#include "pool/work_search.hpp"
#include "shm/arena.hpp"
#include "start/child_main.hpp"
#include "start/hooks.hpp"
#include "start/process_name.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"

namespace brood::pool {

namespace {

using shm::BlockRef;
using shm::ReplyKind;
using shm::RingEntry;
using shm::WorkerRole;
using shm::WorkerStage;

// For the crash handler, which gets no argument.
int crash_pid = 0;
shm::WorkerDesk* crash_desk = nullptr;
const PoolView* crash_view = nullptr;

// Tells the supervisor at once: the core file that may follow takes long.
void report_crash(const sys::Crash& crash) {
  // A child that a task has forked is not the worker.
  if (sys::process_id() != crash_pid) return;
  crash_desk->crash_signal = crash.signal;
  crash_desk->crash_address = crash.fault_address;
  // While another thread crashes, the one that runs tasks may still write a reply.
  const bool task_stands_still = sys::thread_id() == crash_pid;
  crash_desk->crash.store(task_stands_still ? shm::CrashReport::final : shm::CrashReport::note,
                          std::memory_order_release);
  call_supervisor(*crash_view);
}

class Worker final : public detail::TaskFrame {
 public:
  explicit Worker(const WorkerStart& start) noexcept
      : view_(start.view),
        me_(start.me),
        name_(start.process_name),
        entry_(view_.entry(me_.slot)),
        desk_(view_.desk(me_.slot)),
        shared_(view_.shared()),
        search_(view_, me_) {
    inbox_.attach(view_.inbox(start.segment_fd, start.arena_limit_bytes), me_);
    outbox_.attach(view_.outbox(start.segment_fd, start.arena_limit_bytes), me_);
  }

  void run() {
    desk_.prepared.store(1, std::memory_order_release);
    call_supervisor(view_);
    for (;;) {
      const WorkerRole role = entry_.role.load(std::memory_order_acquire);
      if (role == WorkerRole::leaving || unfit_) return;
      if (role == WorkerRole::active && !named_) take_name();
      RingEntry task;
      if (role == WorkerRole::active && search_.take(task)) {
        run_task(task);
      } else {
        search_.wait(role);
      }
    }
  }

  // ---- what thunks see

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return arguments_;
  }
  void enter_user_code() noexcept override {
    in_user_code_ = true;
    desk_.stage.store(WorkerStage::running, std::memory_order_relaxed);
  }
  void leave_user_code() noexcept override {
    in_user_code_ = false;
    end_if_forked();
    desk_.stage.store(WorkerStage::replying, std::memory_order_relaxed);
  }

  std::span<std::byte> reply(std::size_t bytes, bool has_handles) override {
    if (bytes <= shm::kInlineReplyBytes && !has_handles) {
      state_->length = static_cast<std::uint32_t>(bytes);
      state_->kind = ReplyKind::value_inline;
      return std::span(state_->reply).first(bytes);
    }
    state_->kind = ReplyKind::value_block;
    return reply_in_block(state_->reply.data(), bytes);
  }

  // By a frame that becomes the caller's before the reply can be seen.
  void keep_for_caller(std::span<const detail::ObjectHandle> handles) override {
    if (handles.empty()) return;
    std::vector<shm::SentRef> refs;
    for (const detail::ObjectHandle& handle : handles) {
      refs.push_back({BlockRef{handle.name()}, handle.side()});
    }
    shm::Objects& objects = warden::ObjectSpace::join().objects();
    const shm::FramePlace frame = objects.make_frame({}, refs, 0);
    if (!frame) throw ArenaFull("brood: there is no shared memory for the handles in a result");
    objects.arena().transfer(frame.ref, objects.me(), view_.caller().member);
    const std::uint64_t name = frame.ref.bits;
    std::memcpy(outbox_.resolve(block_).data() + offsetof(shm::PacketHeader, handles), &name,
                sizeof name);
  }

  [[nodiscard]] std::uint32_t count() const noexcept override { return request_->count; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return first_; }

  std::span<std::byte> reply_element(std::uint32_t index, std::size_t bytes,
                                     bool in_cell) override {
    if (in_cell) {
      kinds_[index] = ReplyKind::value_inline;
      return cell(index).first(bytes);
    }
    kinds_[index] = ReplyKind::value_block;
    return reply_in_block(cell(index).data(), bytes);
  }

  void fail_element(std::uint32_t index) noexcept override {
    end_if_forked();
    fail(kinds_[index], cell(index), nullptr);
  }

  void finish_element(std::uint32_t index) noexcept override {
    hand_over_block();
    state_->attempts = 0;
    state_->progress.store(index + 1, std::memory_order_release);
    desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
  }

  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override {
    require_in_reach(inbox_, BlockRef{block});
    return packet_payload(inbox_.resolve(BlockRef{block}));
  }

  std::shared_ptr<const void>& bound_cache(std::uint64_t id) override {
    // Bound values may be large: those of the last few bind_fronts are kept.
    constexpr std::size_t kMostBound = 16;
    if (bound_.size() >= kMostBound && !bound_.contains(id)) bound_.clear();
    return bound_[id];
  }

 private:
  static std::span<const std::byte> packet_payload(std::span<const std::byte> packet) {
    shm::PacketHeader header{};
    if (packet.size() < sizeof header) throw DecodeError("brood: the bound values are gone");
    std::memcpy(&header, packet.data(), sizeof header);
    packet = packet.subspan(sizeof header);
    if (header.length > packet.size()) throw DecodeError("brood: the bound values are cut off");
    return packet.first(static_cast<std::size_t>(header.length));
  }

  [[nodiscard]] std::span<std::byte> cell(std::uint32_t index) const noexcept {
    return cells_.subspan(std::size_t{index} * request_->cell_bytes, request_->cell_bytes);
  }

  // A spare learns which worker it is when it is needed.
  void take_name() noexcept {
    std::array<char, 64> name;
    std::snprintf(name.data(), name.size(), "%s/%u", name_,
                  entry_.index.load(std::memory_order_relaxed));
    sys::set_process_name(name.data());
    start::set_process_name(name.data());
    named_ = true;
  }

  // The arenas are looked through for idle memory only after they were used.
  void want_trim() noexcept {
    if (shared_.trim_wanted.load(std::memory_order_relaxed) != 0) return;
    shared_.trim_wanted.store(1, std::memory_order_relaxed);
    call_supervisor(view_);
  }

  // ---- running a task

  // A task that forks and lets the copy return would have two workers under one name.
  void end_if_forked() const noexcept {
    if (sys::process_token() != token_) sys::exit_now(0);
  }

  void run_task(RingEntry task) noexcept {
    desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
    request_ = &view_.request(task.index);
    state_ = &view_.state(task.index);
    in_user_code_ = false;
    try {
      open_request();
      const detail::Thunk thunk = detail::find_thunk(request_->thunk);
      if (thunk.run == nullptr) throw DecodeError("brood: a task names code that is not here");
      thunk.run(*this);
    } catch (...) {
      end_if_forked();
      desk_.stage.store(WorkerStage::replying, std::memory_order_relaxed);
      fail_task();
    }
    const BlockRef result = block_;
    hand_over_block();
    // False only if our word was overwritten: then the supervisor's audit ends the task, and nobody
    // knows of the result.
    if (!finish_task(*state_, me_) && result) outbox_.free(result);
    desk_.done.store(desk_.done.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    desk_.stage.store(WorkerStage::idle, std::memory_order_release);
  }

  void require_in_reach(const shm::Arena& arena, BlockRef block) const {
    const int error = arena.reach(block);
    if (error == 0) return;
    // A task that closed all descriptors closed ours: no other task is to suffer.
    if (error == EBADF) unfit_ = true;
    throw ArenaFull("brood: the system refuses the memory that reading a task's arguments takes");
  }

  // The request is the caller's own writing, in memory that no worker can change. The cells first:
  // whatever else fails is then told in them.
  void open_request() {
    arguments_ = {};
    cells_ = {};
    kinds_ = nullptr;
    cells_out_of_reach_ = false;
    if (request_->cells) open_cells();
    if (request_->arguments) {
      require_in_reach(inbox_, request_->arguments);
      arguments_ = inbox_.resolve(request_->arguments);
    } else {
      arguments_ = request_->inline_arguments;
    }
    if (arguments_.size() < request_->argument_bytes) {
      throw DecodeError("brood: the arguments of a task are gone");
    }
    arguments_ = arguments_.first(static_cast<std::size_t>(request_->argument_bytes));
  }

  void open_cells() {
    const std::size_t cells_bytes = std::size_t{request_->count} * request_->cell_bytes;
    cells_out_of_reach_ = true;
    require_in_reach(outbox_, request_->cells);
    cells_out_of_reach_ = false;
    cells_ = outbox_.resolve(request_->cells);
    if (cells_.size() < cells_bytes + request_->count) {
      cells_ = {};
      throw DecodeError("brood: the room for the results of a task is gone");
    }
    kinds_ = reinterpret_cast<ReplyKind*>(cells_.data() + cells_bytes);
    first_ = std::min(state_->progress.load(std::memory_order_acquire), request_->count);
    state_->kind = ReplyKind::cells;
  }

  std::span<std::byte> reply_in_block(std::byte* where, std::size_t bytes) {
    const auto allocation = outbox_.allocate(sizeof(shm::PacketHeader) + bytes);
    if (allocation.error != 0) {
      if (allocation.error == EBADF) unfit_ = true;  // see require_in_reach
      throw ArenaFull("brood: there is no shared memory for a result of " + std::to_string(bytes) +
                      " bytes: raise InitOptions::arena_limit_bytes, or return less");
    }
    want_trim();
    block_ = allocation.ref;
    const shm::PacketHeader header{bytes, 0};
    std::memcpy(allocation.bytes.data(), &header, sizeof header);
    std::memcpy(where, &block_, sizeof block_);
    return allocation.bytes.subspan(sizeof header, bytes);
  }

  // The block named in the reply becomes the caller's. Until the task is finished, the supervisor
  // finds it by the reply; from then on the caller does.
  void hand_over_block() noexcept {
    if (!block_) return;
    outbox_.transfer(block_, me_, shm::OwnerId{shm::kCallerSlot, shm::kCallerEpoch});
    block_ = BlockRef{};
  }

  void fail_task() noexcept {
    if (request_->cells) {
      // Not even the elements could be read: each of them fails for the same reason.
      if (kinds_ == nullptr) {
        state_->kind = cells_out_of_reach_ ? ReplyKind::none : ReplyKind::corrupt;
        return;
      }
      for (std::uint32_t index = first_; index < request_->count; ++index) {
        fail_element(index);
        finish_element(index);
      }
      return;
    }
    fail(state_->kind, state_->reply, &state_->length);
  }

  // Puts the exception being handled into a reply: in place if it fits and `length` has room for
  // its size, else into a block.
  void fail(ReplyKind& kind, std::span<std::byte> place, std::uint32_t* length) noexcept {
    if (block_) {
      outbox_.free(block_);
      block_ = BlockRef{};
    }
    const bool from_user = std::exchange(in_user_code_, false);
    const std::vector<std::byte> bytes = encode_current_exception(from_user);
    if (length != nullptr && bytes.size() <= place.size()) {
      kind = ReplyKind::exception_inline;
      *length = static_cast<std::uint32_t>(bytes.size());
      std::memcpy(place.data(), bytes.data(), bytes.size());
      return;
    }
    try {
      kind = ReplyKind::exception_block;
      const std::span<std::byte> room = reply_in_block(place.data(), bytes.size());
      std::memcpy(room.data(), bytes.data(), bytes.size());
    } catch (...) {
      // Not even room for the error: the caller is told that there was none.
      kind = ReplyKind::none;
    }
  }

  PoolView view_;
  const std::uint64_t token_ = sys::process_token();
  shm::OwnerId me_;
  const char* name_;
  bool named_ = false;
  const shm::WorkerEntry& entry_;
  shm::WorkerDesk& desk_;
  shm::SharedHeader& shared_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  WorkSearch search_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const void>> bound_;

  // Of the task being run:
  const shm::TaskRequest* request_ = nullptr;
  shm::TaskState* state_ = nullptr;
  std::span<const std::byte> arguments_;
  std::span<std::byte> cells_;
  ReplyKind* kinds_ = nullptr;
  bool cells_out_of_reach_ = false;
  std::uint32_t first_ = 0;
  BlockRef block_;  // allocated for the reply, still ours
  bool in_user_code_ = false;
  mutable bool unfit_ = false;  // for any more tasks
};

}  // namespace

void worker_main(const WorkerStart& start) noexcept {
  sys::die_with_parent();
  // The supervisor may have died before that took effect.
  if (sys::parent_id() != start.supervisor_pid) sys::exit_now(0);

  const warden::Family& family = *warden::Family::inherited();
  const std::array keep = {start.segment_fd, family.segment_fd(), family.objects_fd(),
                           family.socket(), family.warden_pidfd()};
  start::become_child({.process_name = start.process_name,
                       .close_fds = true,
                       .keep = keep,
                       .host_handles_terminal = true});
  // Its children are of its group, and end with it.
  sys::lead_process_group();
  if (start.fd_limit != 0) sys::set_fd_limit(start.fd_limit);
  // From here on this process can write only what a worker has to.
  const PoolGeometry& geometry = start.view.geometry();
  for (const Zone& zone : {geometry.caller_zone, geometry.supervisor_zone}) {
    if (sys::make_read_only(start.view.at(zone.offset), zone.bytes) < 0) sys::exit_now(1);
  }
  warden::Family::remain_in_worker(start.member.value_or(shm::OwnerId{}), start.member.has_value());

  crash_pid = sys::process_id();
  crash_desk = &start.view.desk(start.me.slot);
  crash_view = &start.view;
  sys::on_crash(report_crash);
  sys::hold_until_death(start.view.owners().life(start.me.slot));

  // On the heap: a task that ends the process by exit() must not destroy it.
  auto* worker = new (std::nothrow) Worker(start);
  if (worker == nullptr) sys::exit_now(1);
  start::set_process_name(start.process_name);
  start::run_after_fork_actions();
  worker->run();
  start::leave_child(0);
}

}  // namespace brood::pool
