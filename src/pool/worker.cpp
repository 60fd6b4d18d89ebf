#include "pool/worker.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

#include "brood/detail/object.hpp"
#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "brood/latency.hpp"
#include "brood/task.hpp"
#include "pool/call.hpp"
#include "pool/completions.hpp"
#include "pool/crash_handler.hpp"
#include "pool/exception.hpp"
#include "pool/pool_process.hpp"
#include "pool/stop.hpp"
#include "pool/stop_door.hpp"
#include "pool/task.hpp"
#include "pool/task_clock.hpp"
#include "pool/work_search.hpp"
#include "pool/worker_context.hpp"
#include "pool/worker_setup.hpp"
#include "shm/arena.hpp"
#include "start/child_main.hpp"
#include "start/hooks.hpp"
#include "start/process_name.hpp"
#include "start/surroundings.hpp"
#include "start/thrown_trace.hpp"
#include "sys/clock.hpp"
#include "sys/datagram.hpp"
#include "sys/fd.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "sys/thrown.hpp"
#include "warden/family.hpp"

namespace brood::pool {

namespace {

using shm::BlockRef;
using shm::LeaveWish;
using shm::ReplyKind;
using shm::RingEntry;
using shm::WorkerRole;
using shm::WorkerStage;

class Worker final : public detail::TaskFrame {
 public:
  Worker(const WorkerStart& start, bool has_own_errors) noexcept
      : view_(start.pool.view),
        start_(start.pool),
        setup_(*start.pool.setup),
        wears_(setup_.max_tasks != 0 || setup_.recycle_above_bytes != 0),
        has_own_errors_(has_own_errors),
        me_(start.me),
        name_(start.pool.process_name),
        entry_(view_.entry(me_.slot)),
        desk_(view_.desk(me_.slot)),
        shared_(view_.shared()),
        search_(view_, me_) {
    inbox_.attach(view_.inbox(start_.segment_fd, start_.arena_limit_bytes), me_);
    outbox_.attach(view_.outbox(start_.segment_fd, start_.arena_limit_bytes), me_);
  }

  // The exit status.
  int run() {
    if (wears_) memory_at_start_ = own_memory();
    if (!set_up([this] { initialize(); })) return 1;
    if (setup_.prepare.thunk == 0) desk_.setup.store(shm::SetupStage::over);
    desk_.prepared.store(1, std::memory_order_release);
    call_supervisor(view_);
    for (;;) {
      const WorkerRole role = entry_.role.load(std::memory_order_acquire);
      if (role == WorkerRole::leaving || unfit_) {
        // Whoever woke us for a task meant somebody who takes it.
        if (named_) search_.pass_on();
        return 0;
      }
      if (role == WorkerRole::active && !named_ && !take_place()) return 1;
      RingEntry task;
      if (role == WorkerRole::active && !is_worn() && search_.take(task)) {
        if (wish_ != LeaveWish::none) wish(LeaveWish::none);
        run_task(task);
        if (wears_ && wish_ == LeaveWish::none) look_for_wear();
        if (setup_.idle_timeout_ns != 0) idle_since_ = sys::now_ns();
      } else {
        rest(role);
      }
    }
  }

  // ---- what tasks see

  [[nodiscard]] bool stop_requested() noexcept {
    const shm::TaskState* state = running_.load(std::memory_order_relaxed);
    if (state == nullptr) return false;
    // seq_cst: see stop_door.hpp.
    const auto now = shm::TaskWord::unpack(state->word.load(std::memory_order_seq_cst));
    if (is_claimed_by(now, me_) && now.settled) return true;
    if (view_.caller().order.load(std::memory_order_relaxed) >= shm::PoolOrder::terminate) {
      return true;
    }
    const std::int64_t limit = limit_ns_.load(std::memory_order_relaxed);
    if (limit == shm::kNoLimitNs || sys::now_ns() < limit) return false;
    // From now on what it returns does not count: it may have been left half done.
    told_late_.store(true, std::memory_order_relaxed);
    return true;
  }

  int stop_fd() {
    const std::lock_guard lock(stop_door_mutex_);
    if (running_.load(std::memory_order_relaxed) == nullptr) {
      throw Error("brood: stop_fd() is for tasks while they run");
    }
    if (!stop_door_) {
      const int mailbox = sys::open_mailbox(StopDoorName(view_, me_).text());
      stop_door_ = sys::Fd(static_cast<int>(sys::require(mailbox, "opening a task's stop_fd()")));
      set_stop_door(view_, me_, true);
    }
    knock_if_late();
    return stop_door_.get();
  }

  // ---- what thunks see

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return arguments_;
  }
  void enter_user_code() noexcept override {
    in_user_code_ = true;
    context_.number = request_->number() + element_;
    desk_.stage.store(WorkerStage::running, std::memory_order_relaxed);
  }
  void leave_user_code() noexcept override {
    in_user_code_ = false;
    come_back_from_user_code();
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

  void attempt_elements(const std::uint32_t& index, void (*call)(void* context),
                        void* context) override {
    sys::try_watched([&] { call(context); }, [&] { fail_element(index); });
  }

  void fail_element(std::uint32_t index) noexcept override {
    come_back_from_user_code();
    fail(kinds_[index], cell(index), nullptr);
    failed_ = true;
  }

  detail::ElementEnd finish_element(std::uint32_t index) noexcept override {
    const Judgement judgement = judge();
    if (judgement != Judgement::stands) {
      drop_block();
      kinds_[index] = ReplyKind::none;
    }
    if (judgement == Judgement::withdrawn) return detail::ElementEnd::stop;
    if (judgement == Judgement::late) {
      const shm::LateNote note{state_->attempts.load(std::memory_order_relaxed), 0};
      std::memcpy(cell(index).data(), &note, sizeof note);
      kinds_[index] = ReplyKind::expired;
      count_timed_out(view_);
    }
    if (judgement != Judgement::again) end_element(index);
    desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
    if (judgement != Judgement::again) {
      element_ = index + 1;
      ++served_;
      if (wears_ && element_ < request_->count) yields_ = has_worn();
    }
    begin_attempt();
    if (judgement == Judgement::again) return detail::ElementEnd::again;
    return yields_ ? detail::ElementEnd::stop : detail::ElementEnd::next;
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

  // ---- before the first task

  // Has `step` done; false: it failed, and our note says how.
  template <class Step>
  bool set_up(Step&& step) noexcept {
    desk_.setup.store(shm::SetupStage::running, std::memory_order_release);
    bool failed = false;
    task_stack.store(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                     std::memory_order_relaxed);
    sys::try_watched(step, [&] {
      failed = true;
      come_back_from_user_code();
      write_note(view_.note(me_.slot));
      desk_.setup.store(shm::SetupStage::failed, std::memory_order_release);
      call_supervisor(view_);
    });
    task_stack.store(0, std::memory_order_relaxed);
    come_back_from_user_code();
    return !failed;
  }

  void initialize() {
    if (setup_.has_surroundings) take_surroundings();
    limit_inner_threads(setup_);
    become_worker(view_.caller().seed, setup_.share);
    if (setup_.initializer.thunk != 0) run_setup_call(setup_.initializer);
  }

  void take_surroundings() const {
    start::StartDescriptors wanted;
    const auto& [directory, output, errors] = start_.descriptors;
    wanted.directory.reset(directory);
    wanted.output = output;
    wanted.errors = has_own_errors_ ? 2 : errors;
    start::take_descriptors(wanted);
    for (const int fd : {output, errors}) {
      if (fd > 2) sys::close_fd(fd);
    }
    start::take_limits(setup_.surroundings);
    start::take_on(setup_.surroundings);
  }

  // A spare learns which worker it is when it is needed.
  bool take_place() noexcept {
    take_name();
    context_.index = entry_.index.load(std::memory_order_relaxed);
    idle_since_ = sys::now_ns();
    if (setup_.prepare.thunk == 0) return true;
    if (!set_up([this] { run_setup_call(setup_.prepare); })) return false;
    desk_.setup.store(shm::SetupStage::over, std::memory_order_release);
    call_supervisor(view_);
    return true;
  }

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

  // ---- leaving in good time

  void wish(LeaveWish what) noexcept {
    wish_ = what;
    desk_.wish.store(what, std::memory_order_release);
    if (what != LeaveWish::none) call_supervisor(view_);
  }
  // Takes no task any more.
  [[nodiscard]] bool is_worn() const noexcept { return wish_ > LeaveWish::idle; }

  [[nodiscard]] static std::uint64_t own_memory() noexcept {
    return sys::own_memory_of(sys::process_id()).value_or(0);
  }

  [[nodiscard]] bool has_worn() noexcept {
    if (setup_.max_tasks != 0 && served_ >= setup_.max_tasks) return true;
    if (setup_.recycle_above_bytes == 0) return false;
    // Reading it takes as long as some tasks.
    constexpr std::int64_t kBetweenLooksNs = 1'000'000;
    const std::int64_t now = sys::now_ns();
    return now - memory_looked_at_ >= kBetweenLooksNs && has_grown(now);
  }
  [[nodiscard]] bool has_grown(std::int64_t now) noexcept {
    memory_looked_at_ = now;
    return own_memory() > memory_at_start_ + setup_.recycle_above_bytes;
  }
  void look_for_wear() noexcept {
    if (has_worn()) wish(LeaveWish::worn);
  }

  void rest(WorkerRole role) noexcept {
    const bool may_serve = role == WorkerRole::active && !is_worn();
    if (may_serve && setup_.recycle_above_bytes != 0 && served_ != served_at_look_) {
      served_at_look_ = served_;
      if (has_grown(sys::now_ns())) return wish(LeaveWish::worn);
    }
    const bool times = may_serve && setup_.idle_timeout_ns != 0 && wish_ == LeaveWish::none;
    const std::int64_t until = times ? idle_since_ + setup_.idle_timeout_ns : sys::kForever;
    search_.wait(role, !is_worn(), until);
    if (times && sys::now_ns() >= until) wish(LeaveWish::idle);
  }

  // So that the supervisor looks at our memory from now on.
  void want_watch() noexcept {
    // Both seq_cst: either it sees us at work, or we see that it has stopped looking.
    desk_.stage.store(WorkerStage::claimed, std::memory_order_seq_cst);
    if (shared_.watch_wanted.load(std::memory_order_seq_cst) != 0) return;
    shared_.watch_wanted.store(1, std::memory_order_relaxed);
    call_supervisor(view_);
  }

  // ---- running a task

  void come_back_from_user_code() const noexcept {
    // A task that forks and lets the copy return would have two workers under one name.
    if (sys::process_token() != token_) sys::exit_now(0);
    // Whoever reads the result may see the text before it, and end this worker next.
    start::flush_output();
  }

  void run_task(RingEntry task) noexcept {
    if (setup_.memory_limit_bytes != 0) {
      want_watch();
    } else {
      desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
    }
    yields_ = false;
    element_ = 0;
    request_ = &view_.request(task.index);
    state_ = &view_.state(task.index);
    in_user_code_ = false;
    index_ = task.index;
    undisturbed_ = shm::TaskWord{shm::TaskPhase::claimed, false, me_, task.generation}.pack();
    running_.store(state_, std::memory_order_relaxed);
    if (stop_door_) {
      // What came for the task before; if it was for this one, again.
      sys::empty_mailbox(stop_door_.get());
      knock_if_late();
    }
    const std::int64_t taken_ns = count_waiting_time();
    task_stack.store(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                     std::memory_order_relaxed);
    // Once the task has ended, its record may be another's already.
    const bool has_elements = static_cast<bool>(request_->cells);
    do {
      count_run();
      begin_attempt();
      sys::try_watched(
          [&] {
            open_request();
            const detail::Thunk thunk = detail::find_thunk(request_->thunk);
            if (thunk.run == nullptr) {
              throw DecodeError("brood: a task names code that is not here");
            }
            const std::int64_t begin = has_elements ? sys::now_ns() : 0;
            thunk.run(*this);
            if (has_elements) note_busy_time(begin);
          },
          [&] {
            come_back_from_user_code();
            desk_.stage.store(WorkerStage::replying, std::memory_order_relaxed);
            fail_task();
            failed_ = true;
            yields_ = false;
          });
      if (yields_) break;
    } while (!conclude());
    task_stack.store(0, std::memory_order_relaxed);
    running_.store(nullptr, std::memory_order_relaxed);
    context_.number.reset();
    if (yields_) {
      // It stays ours until the supervisor gives it to another.
      end_attempt();
      return wish(LeaveWish::yields);
    }
    if (!has_elements) {
      ++served_;
      count_done();
    }
    if (taken_ns != 0) count_latency(shared_.running, sys::now_ns() - taken_ns);
    desk_.stage.store(WorkerStage::idle, std::memory_order_release);
  }

  void knock_if_late() noexcept {
    if (stop_requested()) sys::knock(StopDoorName(view_, me_).text());
  }

  // ---- time limits, cancelling, and trying again (shm/pool_layout.hpp: stopping a task)

  void begin_attempt() noexcept {
    failed_ = false;
    told_late_.store(false, std::memory_order_relaxed);
    if (!request_->has(shm::TaskFlag::limited)) return;
    const std::int64_t now = sys::now_ns();
    const std::int64_t run = request_->timeout_ns;
    const std::int64_t limit =
        std::min(request_->deadline_ns, run > shm::kNoLimitNs - now ? shm::kNoLimitNs : now + run);
    limit_ns_.store(limit, std::memory_order_relaxed);
    announce_limit(view_, me_, limit);
  }

  // What ends it by its limit may do so before it is told of this attempt's end.
  void count_run() noexcept {
    if (!request_->has(shm::TaskFlag::limited)) return;
    const std::atomic_ref runs(state_->runs);
    const std::uint16_t before = runs.load(std::memory_order_relaxed);
    if (before != UINT16_MAX) {
      runs.store(static_cast<std::uint16_t>(before + 1), std::memory_order_relaxed);
    }
  }

  // Before the next task is claimed, whose limit this is not.
  void end_attempt() noexcept {
    if (!request_->has(shm::TaskFlag::limited)) return;
    limit_ns_.store(shm::kNoLimitNs, std::memory_order_relaxed);
    desk_.limit_ns.store(0, std::memory_order_relaxed);
  }

  [[nodiscard]] bool is_late() noexcept {
    if (told_late_.load(std::memory_order_relaxed)) return true;
    return word().expired && sys::now_ns() >= limit_ns_.load(std::memory_order_relaxed);
  }

  enum class Judgement {
    stands,     // what the attempt has given is the outcome
    late,       // its being too late is
    again,      // it failed, but there are retries left
    withdrawn,  // the outcome has been settled meanwhile
  };

  // Of the attempt that has just ended.
  [[nodiscard]] Judgement judge() noexcept {
    const bool may_fail = failed_ || told_late_.load(std::memory_order_relaxed);
    const std::uint64_t bits = state_->word.load(std::memory_order_acquire);
    if (!may_fail && shm::TaskWord::without_waiters(bits) == undisturbed_) return Judgement::stands;
    for (;;) {
      const shm::TaskWord now = word();
      if (!is_claimed_by(now, me_)) return Judgement::stands;
      if (now.settled) return Judgement::withdrawn;
      if (now.doomed) await_death();
      const bool late = is_late();
      // Put off until after `late` was told: a mark may be that of an element before this one.
      if (now.expired && !unexpire_task(*state_, me_)) continue;
      const bool failed = late || (failed_ && request_->has(shm::TaskFlag::retry_exceptions));
      if (!failed) return Judgement::stands;
      const std::uint32_t attempts = state_->attempts.load(std::memory_order_relaxed) + 1;
      state_->attempts.store(attempts, std::memory_order_relaxed);
      if (request_->may_be_tried_again(attempts)) return Judgement::again;
      return late ? Judgement::late : Judgement::stands;
    }
  }

  // The end of a task; false: it is to be run again. Its elements have been judged one by one.
  [[nodiscard]] bool conclude() noexcept {
    for (;;) {
      const Judgement judgement = request_->cells ? Judgement::stands : judge();
      if (judgement == Judgement::again) {
        drop_block();
        state_->kind = ReplyKind::none;
        return false;
      }
      if (judgement == Judgement::late) {
        counting_timed_out(view_, index_, [&] { return expire_task(*state_, me_, true); });
      }
      end_attempt();
      const BlockRef result = block_;
      hand_over_block();
      if (tell_if_watched(view_, index_, finish_task(*state_, me_))) return true;
      const shm::TaskWord now = word();
      if (!is_claimed_by(now, me_)) {
        // Our word was overwritten: the supervisor's audit ends the task, and nobody knows of the
        // result.
        if (result) outbox_.free(result);
        return true;
      }
      if (now.doomed) await_death();
      // It was found late in this very moment.
      if (result) outbox_.transfer(result, shm::OwnerId{shm::kCallerSlot, shm::kCallerEpoch}, me_);
      block_ = result;
      if (request_->cells) static_cast<void>(unexpire_task(*state_, me_));
    }
  }

  void end_element(std::uint32_t index) noexcept {
    hand_over_block();
    state_->attempts.store(0, std::memory_order_relaxed);
    state_->progress.store(index + 1, std::memory_order_release);
    count_done();
  }

  // After the end: one that dies in between is missing in the count, never there twice.
  void count_done() noexcept {
    desk_.done.store(desk_.done.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  void drop_block() noexcept {
    if (!block_) return;
    outbox_.free(block_);
    block_ = BlockRef{};
  }

  // The supervisor has taken the task from us for good. (Or a stray write has: then it kills us
  // when it sees that.)
  [[noreturn]] void await_death() noexcept {
    for (;;) {
      call_supervisor(view_);
      sys::futex_wait(&desk_.bell, desk_.bell.load(std::memory_order_relaxed),
                      sys::now_ns() + 1'000'000'000);
    }
  }

  [[nodiscard]] shm::TaskWord word() const noexcept {
    return shm::TaskWord::unpack(state_->word.load(std::memory_order_acquire));
  }

  // ---- statistics

  static void count_latency(shm::LatencyCounts& counts, std::int64_t ns) noexcept {
    const std::size_t step = LatencyHistogram::step_of(std::chrono::nanoseconds(ns));
    counts[step].fetch_add(1, std::memory_order_relaxed);
  }

  // When the task was taken, if it is one that is timed; of the first attempt only, since whoever
  // tried before may have begun a reply.
  std::int64_t count_waiting_time() noexcept {
    if (!request_->has(shm::TaskFlag::timed)) return 0;
    const std::int64_t now = sys::now_ns();
    if (state_->attempts.load(std::memory_order_relaxed) == 0 && first_attempt_of_chunk()) {
      std::int64_t submitted = 0;
      std::memcpy(&submitted, state_->reply.data(), sizeof submitted);
      count_latency(shared_.waiting, now - submitted);
    }
    return now;
  }
  [[nodiscard]] bool first_attempt_of_chunk() const noexcept {
    return state_->progress.load(std::memory_order_relaxed) == 0;
  }

  // For the size of the chunks to come.
  void note_busy_time(std::int64_t begin) const noexcept {
    const std::int64_t us = (sys::now_ns() - begin) / 1000;
    state_->busy_us = static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 1, UINT32_MAX));
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
    element_ = first_;
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
        end_element(index);
      }
      return;
    }
    fail(state_->kind, state_->reply, &state_->length);
  }

  // Puts the exception being handled into a reply: in place if it fits and `length` has room for
  // its size, else into a block.
  void fail(ReplyKind& kind, std::span<std::byte> place, std::uint32_t* length) noexcept {
    drop_block();
    const bool from_user = std::exchange(in_user_code_, false);
    const std::uint32_t attempts = state_->attempts.load(std::memory_order_relaxed) + 1;
    if (reply_exception(encode_current_exception(from_user, attempts), kind, place, length)) return;
    // Without its trace, which was taken with the first.
    if (reply_exception(encode_current_exception(from_user, attempts), kind, place, length)) return;
    // Not even room for the error: the caller is told that there was none.
    kind = ReplyKind::none;
  }

  bool reply_exception(std::span<const std::byte> bytes, ReplyKind& kind,
                       std::span<std::byte> place, std::uint32_t* length) noexcept {
    if (length != nullptr && bytes.size() <= place.size()) {
      kind = ReplyKind::exception_inline;
      *length = static_cast<std::uint32_t>(bytes.size());
      std::memcpy(place.data(), bytes.data(), bytes.size());
      return true;
    }
    try {
      kind = ReplyKind::exception_block;
      const std::span<std::byte> room = reply_in_block(place.data(), bytes.size());
      std::memcpy(room.data(), bytes.data(), bytes.size());
      return true;
    } catch (...) {
      return false;
    }
  }

  PoolView view_;
  const SupervisorStart& start_;
  const WorkerSetup& setup_;
  const bool wears_;
  const bool has_own_errors_;
  WorkerContext& context_ = worker_context();
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

  LeaveWish wish_ = LeaveWish::none;
  std::uint64_t served_ = 0;  // tasks, and elements of map
  std::uint64_t served_at_look_ = 0;
  std::uint64_t memory_at_start_ = 0;
  std::int64_t memory_looked_at_ = 0;
  std::int64_t idle_since_ = 0;

  // Of the task being run:
  const shm::TaskRequest* request_ = nullptr;
  shm::TaskState* state_ = nullptr;
  std::uint32_t index_ = 0;        // of the record
  std::uint64_t undisturbed_ = 0;  // its word while nothing is to be stopped
  std::span<const std::byte> arguments_;
  std::span<std::byte> cells_;
  ReplyKind* kinds_ = nullptr;
  bool cells_out_of_reach_ = false;
  std::uint32_t first_ = 0;
  BlockRef block_;             // allocated for the reply, still ours
  std::uint32_t element_ = 0;  // that is next
  bool yields_ = false;
  bool in_user_code_ = false;
  bool failed_ = false;  // the attempt ended with an exception

  // What other threads of a task ask about as well:
  std::atomic<const shm::TaskState*> running_{nullptr};
  std::atomic<std::int64_t> limit_ns_{shm::kNoLimitNs};
  std::atomic<bool> told_late_{false};
  std::mutex stop_door_mutex_;
  sys::Fd stop_door_;

  mutable bool unfit_ = false;  // for any more tasks
};

// The one of this process, for the questions of its tasks.
Worker* the_worker = nullptr;

}  // namespace

void worker_main(const WorkerStart& start) noexcept {
  // First: whatever it says from here on is its own.
  const bool has_own_errors = start.errors >= 0 && sys::place_fd(start.errors, 2) == 0;
  become_pool_process(start.pool, start.supervisor_pid, start.member);
  const PoolView& view = start.pool.view;
  report_crashes(view, start.me);
  sys::hold_until_death(view.owners().life(start.me.slot));

  const start::ThrownTrace trace(task_stack);
  // On the heap: a task that ends the process by exit() must not destroy it.
  auto* worker = new (std::nothrow) Worker(start, has_own_errors);
  if (worker == nullptr) sys::exit_now(1);
  the_worker = worker;
  start::set_process_name(start.pool.process_name);
  start::run_after_fork_actions();
  const int status = worker->run();
  destroy_worker_states();
  start::leave_child(status);
}

}  // namespace brood::pool

namespace brood {

bool stop_requested() noexcept {
  if (pool::stop_of_thread != nullptr) {
    return pool::stop_of_thread->load(std::memory_order_relaxed);
  }
  return pool::the_worker != nullptr && pool::the_worker->stop_requested();
}

int stop_fd() {
  if (pool::stop_of_thread != nullptr) return pool::stop_fd_of_thread();
  if (pool::worker_context().stop_fd >= 0) return pool::worker_context().stop_fd;
  if (pool::the_worker == nullptr) throw Error("brood: stop_fd() is for tasks while they run");
  return pool::the_worker->stop_fd();
}

}  // namespace brood
