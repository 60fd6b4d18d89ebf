// The caller's side of a pool: makes it, hands tasks in, takes results out, ends it.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/detail/completion.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/pool.hpp"
#include "pool/admission.hpp"
#include "pool/call.hpp"
#include "pool/completions.hpp"
#include "pool/dormancy.hpp"
#include "pool/idle.hpp"
#include "pool/kept_tasks.hpp"
#include "pool/lookout.hpp"
#include "pool/records.hpp"
#include "pool/replay.hpp"
#include "pool/reply.hpp"
#include "pool/stats.hpp"
#include "pool/supervisor.hpp"
#include "pool/task.hpp"
#include "pool/task_clock.hpp"
#include "pool/task_name.hpp"
#include "pool/view.hpp"
#include "pool/watches.hpp"
#include "pool/worker_context.hpp"
#include "pool/worker_setup.hpp"
#include "shm/arena.hpp"
#include "shm/segment.hpp"
#include "start/current.hpp"
#include "start/fork.hpp"
#include "start/init.hpp"
#include "start/look_time.hpp"
#include "start/nursery.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/random.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood {

namespace {

using detail::DeadlineNs;
using detail::TaskDraft;
using detail::TaskReply;
using detail::TaskSpec;
using detail::TaskTicket;
using pool::PoolGeometry;
using pool::PoolView;
using shm::PoolCondition;
using shm::PoolOrder;
using shm::TaskPhase;
using shm::TaskWord;
using shm::WorkerRole;

constexpr std::size_t kMaxWorkers = 480;

// Address space for a pool: as much as it gets.
struct SegmentSize {
  std::size_t tasks;
  std::size_t payload_bytes;  // of each of its two arenas
};
constexpr std::array<SegmentSize, 4> kSegmentSizes = {{
    {std::size_t{1} << shm::kIndexBits, std::size_t{1} << 35},
    {std::size_t{1} << 22, std::size_t{1} << 30},
    {std::size_t{1} << 18, std::size_t{1} << 27},
    {std::size_t{1} << 14, std::size_t{1} << 24},
}};

constexpr std::int64_t kMs = 1'000'000;
// A sleeper looks up so often: the supervisor, who wakes it, may itself be gone.
constexpr std::int64_t kShortLookNs = 2'000;
constexpr std::int64_t kLookUpNs = 200 * kMs;
// A caller that has waited so long has the pool looked over; the next time after twice as long.
constexpr std::int64_t kFirstDoubtNs = 1000 * kMs;
constexpr std::chrono::milliseconds kTermOnTerminate{100};

[[noreturn]] void throw_pool_of_program(const char* unless = "") {
  throw Error(
      std::string("brood: a task can't use the pools of its program: make one of its own inside "
                  "the task") +
      unless);
}

class PoolCaller final : public detail::PoolCore {
 public:
  explicit PoolCaller(const PoolOptions& options)
      : owner_token_(sys::process_token()),
        workers_(options.workers),
        grace_ns_(require_positive(options.grace, "PoolOptions::grace", 0)),
        process_name_("brood:" + options.name) {
    if (workers_ == 0 || workers_ > kMaxWorkers) {
      throw StartError("brood: a pool has 1 to " + std::to_string(kMaxWorkers) + " workers, not " +
                       std::to_string(workers_));
    }
    if (options.max_pending == 0) {
      throw StartError("brood: PoolOptions::max_pending is at least 1");
    }
    set_limits(defaults_, options.task_timeout, options.retries);
    defaults_.retry_exceptions = options.retry_exceptions;
    const start::Choice choice = start::choose(options.start);
    setup_ = pool::make_setup(options, choice.method);
    if (!options.keep_failed.empty()) keep_failed(options);
    warden::Family& family = warden::Family::join();
    family_ = &family;
    make_segment();
    make_shared_objects();
    waiting_.emplace(view_, options.max_pending);
    view_.caller().seed = options.seed ? *options.seed : random_number();
    view_.caller().door_id.store(random_number(), std::memory_order_relaxed);
    view_.caller().workers.store(static_cast<std::uint32_t>(workers_), std::memory_order_relaxed);
    if (choice.method == StartMethod::fork) {
      fork_supervisor(family, options, choice.asked_for);
    } else {
      bear_supervisor(options, choice.method);
    }
    watches_->set_end(supervisor_pidfd_.get());
    setup_.descriptors = start::StartDescriptors();
  }

  ~PoolCaller() override {
    if (!is_mine()) abandon();
  }

  [[nodiscard]] std::size_t workers() const noexcept override {
    return workers_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] const TaskSpec& defaults() const noexcept override { return defaults_; }

  [[nodiscard]] TaskSpec spec_of(const TaskOptions& options) const override {
    TaskSpec spec = defaults_;
    set_limits(spec, options.timeout, options.retries.value_or(defaults_.retries));
    if (options.deadline && !is_debugged_) {
      spec.deadline_ns = options.deadline->time_since_epoch().count();
    }
    spec.retry_exceptions = options.retry_exceptions.value_or(defaults_.retry_exceptions);
    spec.priority = static_cast<std::uint32_t>(options.priority);
    if (spec.priority >= shm::kPriorities) {
      throw Error("brood: TaskOptions::priority is none of Priority's values");
    }
    spec.name = options.name;
    if (options.stop.stop_requested()) spec.ended = detail::EndedBefore::cancelled;
    return spec;
  }

  [[nodiscard]] detail::Addresses addresses() const noexcept override { return addresses_; }

  // ---- handing tasks in

  TaskDraft draft(const TaskSpec& spec) override {
    require_mine();
    if (spec.thunk == 0 || spec.thunk > thunks_at_start_) {
      throw NotSendable(
          "brood: the code of this task was loaded after the pool was made: load it first, or make "
          "the pool later (one that is a global variable is made before main(), when the program's "
          "own code is not known yet: make it in main(), or as a static variable of a function)");
    }
    if (spec.function != nullptr && !was_code_at_start(spec.function)) {
      throw NotSendable(
          "brood: the function to call was loaded after the pool was made: load its code first, or "
          "make the pool later");
    }
    require_open();
    return with_room([&] { return records_->draft(spec); });
  }
  void drop(const TaskDraft& draft) noexcept override { records_->drop(draft); }

  Place admit(TaskSpec& spec, const std::stop_token& stop, DeadlineNs limit) override {
    if (!waiting_->is_limited() || waiting_->take_place()) return Place::taken;
    const std::stop_callback look_again(stop, [this] { waiting_->wake_all(); });
    const DeadlineNs end = std::min(limit, spec.deadline_ns);
    for (;;) {
      const std::int64_t now = sys::now_ns();
      if (stop.stop_requested()) {
        spec.ended = detail::EndedBefore::cancelled;
      } else if (now >= spec.deadline_ns) {
        spec.ended = detail::EndedBefore::late;
      }
      if (spec.ended != detail::EndedBefore::no) return Place::not_needed;
      if (now >= limit) return Place::none_by_limit;
      require_mine();
      require_open();
      const sys::FutexWord& wanted = waiting_->want_room();
      if (waiting_->take_place()) return Place::taken;
      // Asked after the word was written, which a request that comes now writes again.
      if (stop.stop_requested()) continue;
      // Whoever was to take one of those that wait may have been stopped; see sleep_until.
      pool::call_one(view_, idle_);
      const std::int64_t look_up = now + kLookUpNs;
      start::futex_wait_serving_signals(&wanted, 1, std::min(end, look_up));
      if (waiting_->take_place()) return Place::taken;
      if (sys::now_ns() >= look_up) idle_.wake_one();
    }
  }
  void leave() noexcept override {
    if (waiting_->is_limited()) waiting_->give_place_back();
  }

  TaskTicket commit(const TaskDraft& draft, detail::TaskBaggage baggage) override {
    const std::int64_t deadline = view_.request(draft.index).deadline_ns;
    const TaskTicket task = records_->commit(draft, std::move(baggage));
    switch (draft.ended) {
      case detail::EndedBefore::cancelled:
        cancelled_.fetch_add(1, std::memory_order_relaxed);
        return task;
      case detail::EndedBefore::late:
        pool::count_timed_out(view_);
        ended_waiting_.fetch_add(1, std::memory_order_relaxed);
        return task;
      case detail::EndedBefore::no:
        break;
    }
    if (deadline != detail::kNoDeadline) watch_deadline(task, deadline);
    pool::call_worker(view_, idle_, *waiting_);
    return task;
  }

  std::uint64_t place(const detail::BoundPtr& blob) override {
    const std::weak_ptr<PoolCore> self = weak_from_this();
    const auto free = [self](std::uint64_t block) {
      const std::shared_ptr<PoolCore> core = self.lock();
      if (core == nullptr) return;
      auto& pool = static_cast<PoolCaller&>(*core);
      if (pool.is_mine()) pool.records_->free_in_inbox(block);
    };
    // Around all of it, not within: the blob is locked there.
    return with_room(
        [&] { return blob->block_for(number_, [&] { return records_->place(*blob); }, free); });
  }

  // ---- waiting

  [[nodiscard]] bool ready(TaskTicket task) const noexcept override {
    if (!is_mine()) return false;
    const TaskWord word = word_of(task);
    if (pool::has_outcome(word) || !pool::is_plausible(word, task.generation)) return true;
    return condition() != PoolCondition::running && condition() != PoolCondition::starting;
  }

  bool wait(TaskTicket task, DeadlineNs deadline) override {
    require_mine();
    start::serve_signals();
    if (has_ended(task)) return true;
    const std::int64_t start = sys::now_ns();
    const bool ended = look_until(task, std::min(deadline, start + look_time_.ns())) ||
                       sleep_until(task, deadline);
    look_time_.learn(sys::now_ns() - start);
    return ended;
  }

  bool cancel(TaskTicket task) noexcept override {
    if (!is_mine()) return false;
    pool::Step change;
    const pool::CancelStep step =
        pool::cancel_task(view_.state(task.index), task.generation, change);
    pool::tell_if_watched(view_, task.index, change);
    if (step == pool::CancelStep::too_late) return false;
    if (step == pool::CancelStep::already) return true;
    cancelled_.fetch_add(1, std::memory_order_relaxed);
    if (step == pool::CancelStep::ended) ended_waiting_.fetch_add(1, std::memory_order_relaxed);
    // Its worker is given its grace; a pool that drains may have waited for this one alone.
    if (step == pool::CancelStep::stopping || order() != PoolOrder::run) {
      pool::call_supervisor(view_);
    }
    return true;
  }

  void cancel_on(const std::stop_token& stop, TaskTicket task) override {
    const auto cancel_it = [this, task] { cancel(task); };
    using Callback = std::stop_callback<decltype(cancel_it)>;
    records_->attach(task, std::make_shared<Callback>(stop, cancel_it));
  }

  [[nodiscard]] bool is_cancelled(TaskTicket task) const noexcept override {
    if (!is_mine()) return false;
    const TaskWord word = word_of(task);
    return word.generation == task.generation && word.settled && !word.expired;
  }
  [[nodiscard]] bool is_running(TaskTicket task) const noexcept override {
    if (!is_mine()) return false;
    const TaskWord word = word_of(task);
    return word.generation == task.generation && word.phase == TaskPhase::claimed && !word.settled;
  }

  // ---- taking results out

  [[nodiscard]] TaskReply reply(TaskTicket task) const override {
    if (!has_ended(task)) pool::throw_overwritten();
    return pool::read_reply(view_, *records_, task);
  }
  [[nodiscard]] TaskReply reply_of_element(TaskTicket task, std::uint32_t index) const override {
    if (!has_ended(task)) pool::throw_overwritten();
    return pool::read_element_reply(view_, *records_, task, index);
  }

  [[nodiscard]] std::span<const std::byte> values_in_cells(TaskTicket task) const override {
    if (!has_ended(task)) return {};
    return pool::read_values_in_cells(view_, *records_, task);
  }

  [[noreturn]] void throw_reply(TaskTicket task, const TaskReply& reply,
                                std::size_t index) const override {
    if (reply.kind == TaskReply::Kind::died) throw_died(task, reply, index);
    const shm::TaskRequest& request = view_.request(task.index);
    pool::throw_reply(reply, {name_of(task), count_runs(task, reply.element), request.timeout_ns,
                              request.deadline_ns});
  }

  detail::CompletionSource& completions() override {
    require_mine();
    return *watches_;
  }

  [[nodiscard]] bool is_pending(TaskTicket task) const noexcept override {
    return word_of(task).phase == TaskPhase::pending;
  }

  [[nodiscard]] std::uint32_t elements_done(TaskTicket task) const noexcept override {
    if (!is_mine() || word_of(task).generation != task.generation) return 0;
    return view_.state(task.index).progress.load(std::memory_order_acquire);
  }

  [[nodiscard]] std::chrono::microseconds busy_time(TaskTicket task) const noexcept override {
    if (!has_ended(task)) return {};
    const std::uint32_t busy =
        std::atomic_ref(view_.state(task.index).busy_us).load(std::memory_order_relaxed);
    return std::chrono::microseconds(busy);
  }

  void release(TaskTicket task) noexcept override {
    if (!is_mine()) return;
    watches_->forget(task);
    records_->release(task, is_over());
    if (kept_ != nullptr) keep_unseen();
  }

  // ---- the end

  void resize(std::size_t workers) override {
    require_mine();
    require_open();
    if (workers == 0 || workers > most_workers_) {
      throw Error("brood: this pool can have 1 to " + std::to_string(most_workers_) +
                  " workers, not " + std::to_string(workers));
    }
    workers_.store(workers, std::memory_order_relaxed);
    view_.caller().workers.store(static_cast<std::uint32_t>(workers), std::memory_order_release);
    pool::call_supervisor(view_);
  }

  void close() noexcept override { raise_order(PoolOrder::drain); }

  void terminate() noexcept override { order_termination(kTermOnTerminate); }

  bool join_until(DeadlineNs deadline) override {
    require_mine();
    if (order() == PoolOrder::run && !is_over()) {
      throw Error("brood: join() waits for a pool to end: call close() or terminate() first");
    }
    const long ended = start::has_ended_serving_signals(supervisor_pidfd_.get(), deadline);
    return has_ended_now(ended);
  }

  bool shutdown(DeadlineNs drain, std::chrono::nanoseconds term) override {
    require_mine();
    close();
    if (join_until(drain)) return true;
    order_termination(std::chrono::duration_cast<std::chrono::milliseconds>(term));
    constexpr std::int64_t kReserveNs = 1000 * kMs;
    const DeadlineNs term_end = detail::deadline_after(term);
    if (!join_until(term_end > detail::kNoDeadline - kReserveNs ? detail::kNoDeadline
                                                                : term_end + kReserveNs)) {
      raise_order(PoolOrder::kill);
      if (!join_until(sys::now_ns() + kReserveNs)) {
        throw Error("brood: the kernel would not end these processes: " + living_workers());
      }
    }
    return false;
  }

  void end() noexcept override {
    if (!is_mine()) return;
    end_processes();
    if (kept_ == nullptr) return;
    // The last chance for those that nobody asked for.
    records_->collect();
    keep_unseen();
  }

  [[nodiscard]] PoolStats stats() const override {
    require_mine();
    PoolStats stats =
        pool::read_stats(view_, workers_, [this](TaskTicket task) { return name_of(task); });
    stats.cancelled = cancelled_.load(std::memory_order_relaxed);
    stats.done += ended_waiting_.load(std::memory_order_relaxed);
    return stats;
  }

  [[nodiscard]] std::uint64_t deaths() const noexcept override {
    return view_.supervisor().died.load(std::memory_order_relaxed);
  }

 private:
  // How often a task that has missed a limit was begun, or an element of it that nothing else is
  // known of.
  [[nodiscard]] std::uint32_t count_runs(TaskTicket task, std::uint32_t element) const noexcept {
    shm::TaskState& state = view_.state(task.index);
    if (!view_.request(task.index).cells) {
      return std::atomic_ref(state.runs).load(std::memory_order_relaxed);
    }
    const bool is_next = element == state.progress.load(std::memory_order_relaxed);
    return is_next ? state.attempts.load(std::memory_order_relaxed) : 0;
  }

  // ---- keeping what died

  void keep_failed(const PoolOptions& options) {
    kept_ = std::make_unique<pool::KeptTasks>(options.keep_failed, options.name, setup_);
    // The file is for a process that was executed afresh.
    addresses_ = detail::Addresses::of_its_own;
  }

  [[nodiscard]] Death read_death(const TaskReply& reply) const {
    return pool::read_death(reply.bytes, setup_.setup.memory_limit_bytes);
  }

  [[noreturn]] void throw_died(TaskTicket task, const TaskReply& reply, std::size_t index) const {
    Death death = read_death(reply);
    death.task = name_of(task);
    death.index = index;
    if (kept_ != nullptr) {
      const bool has_handles = records_->traits_of(task.index).has_handles;
      death.kept = keep({task, reply.element, index, death, has_handles});
    }
    throw WorkerDied(std::move(death));
  }

  std::string keep(const pool::DeadTask& dead) const noexcept {
    return kept_->keep(dead, view_.request(dead.ticket.index), *records_, view_.caller().seed);
  }

  // Calls `use(element, reply)` for each element of a task that is done and died, until it returns
  // true; whether it did.
  template <class Use>
  bool for_dead(TaskTicket task, Use&& use) const {
    const shm::TaskRequest& request = view_.request(task.index);
    const auto look = [&](std::uint32_t element, const TaskReply& reply) {
      return reply.kind == TaskReply::Kind::died && use(element, reply);
    };
    if (!request.cells) return look(0, pool::read_reply(view_, *records_, task));
    for (std::uint32_t i = 0; i < request.count; ++i) {
      if (look(i, pool::read_element_reply(view_, *records_, task, i))) return true;
    }
    return false;
  }

  // Its record is to be freed, and its death may be one that nobody has asked about.
  [[nodiscard]] bool is_wanted(TaskTicket task) const noexcept {
    return for_dead(task,
                    [](std::uint32_t /*element*/, const TaskReply& /*reply*/) { return true; });
  }

  // Tasks that died and are given up, with no lock held: whoever is told by the log may use us.
  void keep_unseen() noexcept {
    for (const TaskTicket task : records_->take_set_aside()) {
      keep_unseen(task);
      kept_->forget(task);
      records_->free_record(task);
    }
  }
  // Tasks that died since they were given up hold memory until they are kept.
  template <class Make>
  std::invoke_result_t<Make&> with_room(Make&& make) {
    if (kept_ == nullptr) return make();
    try {
      const auto made = make();
      keep_unseen();
      return made;
    } catch (const ArenaFull&) {
      keep_unseen();
    }
    return make();
  }
  void keep_unseen(TaskTicket task) const noexcept {
    try {
      const pool::TaskTraits traits = records_->traits_of(task.index);
      for_dead(task, [&](std::uint32_t element, const TaskReply& reply) {
        if (kept_->knows(task, element)) return false;
        Death death = read_death(reply);
        death.task = traits.name.empty() ? name_of_code(task) : traits.name;
        keep({task, element, std::nullopt, death, traits.has_handles});
        return false;
      });
    } catch (...) {
      // Without memory it is lost.
    }
  }

  // ---- the end

  void end_processes() noexcept {
    try {
      terminate();
      constexpr std::int64_t kMostNs = 2000 * kMs;
      if (ends_within(kMostNs)) return;
      raise_order(PoolOrder::kill);
      if (ends_within(kMostNs)) return;
    } catch (...) {
      // Nothing above throws in the process that made the pool.
    }
    // The warden ends the workers of a supervisor that is gone.
    sys::send_signal(supervisor_pidfd_.get(), sys::signal_number::kKill);
    if (sys::has_ended(supervisor_pidfd_.get(), sys::now_ns() + kMs * 1000) == 1) {
      reap_supervisor();
    }
  }

  // ---- making it

  void make_segment() {
    for (const SegmentSize& size : kSegmentSizes) {
      const PoolGeometry geometry = PoolGeometry::make(size.tasks, workers_, size.payload_bytes);
      try {
        segment_ = shm::Segment("brood:pool", geometry.end);
        segment_size_ = size;
        view_ = PoolView(segment_.base(), geometry);
        idle_ = pool::IdleWorkers(view_);
        return;
      } catch (const SystemError&) {
        // Address space or file size may be limited (ulimit -v, -f): do with less.
        if (&size == &kSegmentSizes.back()) throw;
      }
    }
  }

  void make_shared_objects() {
    const PoolGeometry& geometry = view_.geometry();
    for (const pool::Zone& zone :
         {geometry.caller_header, geometry.supervisor_header, geometry.owners, geometry.entries,
          geometry.retry_ring, geometry.shared_header, geometry.lives, geometry.desks,
          geometry.notes, geometry.crash_notes}) {
      segment_.reserve(zone.offset, zone.bytes);
    }
    shm::OwnerTable owners = view_.owners();
    for (const std::uint16_t slot : {shm::kCallerSlot, shm::kSupervisorSlot}) {
      owners.claim_slot(slot, sys::process_id());
      owners.settle({slot, shm::kCallerEpoch}, sys::process_id());
    }
    arena_limit_ = start::init_options().arena_limit_bytes.value_or(sys::physical_memory() / 2);
    if (start::init_options().huge_pages) sys::advise_huge_pages(segment_.base(), segment_.size());
    view_.caller().member = warden::ObjectSpace::join().objects().me();
    records_ = std::make_unique<pool::Records>(segment_, view_, arena_limit_);
    if (kept_ != nullptr) {
      records_->set_aside([this](TaskTicket task) { return is_wanted(task); });
    }
    watches_ = std::make_unique<pool::Watches>(segment_, view_, [this] { return is_over_now(); });
  }

  void fork_supervisor(warden::Family& family, const PoolOptions& options, bool asked_for) {
    thunks_at_start_ = detail::thunk_count();
    code_at_start_ = sys::executable_memory();
    const pool::SupervisorStart start{view_,
                                      segment_.fd(),
                                      arena_limit_,
                                      static_cast<std::uint32_t>(workers_),
                                      std::max(options.restart_limit, 1U),
                                      &family.layout(),
                                      family.socket(),
                                      sys::process_id(),
                                      grace_ns_,
                                      process_name_.c_str(),
                                      0,
                                      false,
                                      &setup_.setup,
                                      {setup_.descriptors.directory.get(),
                                       setup_.setup.has_output ? setup_.descriptors.output : -1,
                                       setup_.setup.has_errors ? setup_.descriptors.errors : -1}};
    start::Forked child = start::fork_now(start::ForkFor::service, asked_for);
    if (child.pid == 0) pool::supervisor_main(start);
    supervisor_pid_ = child.pid;
    supervisor_pidfd_ = std::move(child.pidfd);
  }

  void bear_supervisor(const PoolOptions& options, StartMethod method) {
    pool::SupervisorOrder order;
    order.max_tasks = segment_size_.tasks;
    order.payload_bytes = segment_size_.payload_bytes;
    order.arena_limit_bytes = arena_limit_;
    order.workers = static_cast<std::uint32_t>(workers_);
    order.restart_limit = std::max(options.restart_limit, 1U);
    order.grace_ns = grace_ns_;
    order.caller_pid = sys::process_id();
    order.process_name = process_name_;
    order.setup = setup_.setup;
    std::vector<int> descriptors = {segment_.fd()};
    if (setup_.setup.has_surroundings) {
      descriptors.push_back(setup_.descriptors.directory.get());
      if (setup_.setup.has_output) descriptors.push_back(setup_.descriptors.output);
      if (setup_.setup.has_errors) descriptors.push_back(setup_.descriptors.errors);
    }
    start::BirthOrder birth;
    birth.method = method;
    birth.name = process_name_;
    birth.kind = warden::MemberKind::supervisor;
    birth.descriptors = descriptors;
    birth.preparation = start::prepare({});
    start::Born born;
    try {
      born = start::bear(std::move(birth), pool::send_supervisor(order));
    } catch (...) {
      // It may live, and only its answer not have come.
      pool::raise_order(view_, PoolOrder::kill);
      throw;
    }
    thunks_at_start_ = std::min(born.thunks, detail::thunk_count());
    code_at_start_ = start::code_at_init();
    if (method == StartMethod::spawn) addresses_ = detail::Addresses::of_its_own;
    supervisor_pid_ = born.pid;
    supervisor_pidfd_ = std::move(born.pidfd);
  }

  // ---- its end

  bool has_ended_now(long ended) {
    if (sys::require(ended, "waiting for a pool to end") == 0) return false;
    reap_supervisor();
    return true;
  }
  // Whatever signals arrive.
  bool ends_within(std::int64_t limit_ns) {
    return has_ended_now(sys::has_ended(supervisor_pidfd_.get(), sys::now_ns() + limit_ns));
  }

  // ---- talking to the processes

  [[nodiscard]] PoolOrder order() const noexcept {
    return view_.caller().order.load(std::memory_order_acquire);
  }

  void raise_order(PoolOrder to) noexcept {
    if (is_mine()) pool::raise_order(view_, to);
  }

  void order_termination(std::chrono::milliseconds term) noexcept {
    if (!is_mine()) return;
    // A day is as good as for ever, and fits.
    const auto ms = std::clamp<std::int64_t>(term.count(), 0, 86'400'000);
    view_.caller().term_ms.store(static_cast<std::uint32_t>(ms), std::memory_order_relaxed);
    raise_order(PoolOrder::terminate);
  }

  void reap_supervisor() noexcept {
    sys::ExitStatus status;
    sys::reap(supervisor_pidfd_.get(), status);
    supervisor_gone_.store(true, std::memory_order_release);
  }

  [[nodiscard]] std::string living_workers() const {
    std::string pids;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view_.geometry().slots; ++slot) {
      const shm::WorkerEntry& entry = view_.entry(slot);
      if (entry.role.load(std::memory_order_relaxed) == WorkerRole::none) continue;
      pids += (pids.empty() ? "" : ", ") + std::to_string(entry.pid.load());
    }
    return pids;
  }

  // ---- the pool's condition

  [[nodiscard]] PoolCondition condition() const noexcept {
    return view_.supervisor().condition.load(std::memory_order_acquire);
  }

  // No task will be run any more.
  [[nodiscard]] bool is_over() const noexcept {
    return supervisor_gone_.load(std::memory_order_acquire) || condition() > PoolCondition::running;
  }

  // The same, also of one that could not tell any more.
  [[nodiscard]] bool is_over_now() noexcept {
    return is_over() || family_->warden_lost() || supervisor_died();
  }

  void require_open() {
    if (order() != PoolOrder::run) throw PoolClosed("brood: the pool is closed; make a new one");
    if (std::exception_ptr failure = failure_of_pool()) std::rethrow_exception(failure);
  }

  // Why no task will end any more; null while the pool lives.
  [[nodiscard]] std::exception_ptr failure_of_pool() {
    switch (condition()) {
      case PoolCondition::ended:
        return std::make_exception_ptr(PoolClosed("brood: the pool ended before this task did"));
      case PoolCondition::broken_startup:
        return std::make_exception_ptr(BrokenPool(
            "brood: the workers die before they are ready to work; look at their messages"));
      case PoolCondition::broken_family:
        return std::make_exception_ptr(
            FamilyBroken("brood: the warden of this family of processes was killed"));
      case PoolCondition::broken_setup:
        return pool::setup_failure(view_, setup_.setup.memory_limit_bytes);
      default:
        break;
    }
    if (family_->warden_lost()) {
      return std::make_exception_ptr(
          FamilyBroken("brood: the warden of this family of processes was killed"));
    }
    if (!supervisor_died()) return nullptr;
    return std::make_exception_ptr(BrokenPool("brood: the pool's supervisor was killed"));
  }

  // The life word is only the early sign, and workers could have overwritten it.
  [[nodiscard]] bool supervisor_died() noexcept {
    if (supervisor_gone_.load(std::memory_order_acquire)) return true;
    const std::uint32_t life =
        view_.owners().life(shm::kSupervisorSlot).word.load(std::memory_order_acquire);
    // 0: it could not hold its word (a sandbox may forbid that), so there is no early sign.
    if (life != 0 && (life & sys::kFutexOwnerDied) == 0) return false;
    if (sys::has_ended(supervisor_pidfd_.get(), 0) != 1) return false;
    reap_supervisor();
    return true;
  }

  // ---- tasks

  static std::int64_t require_positive(std::chrono::nanoseconds time, const char* option,
                                       std::int64_t least) {
    if (time.count() < least) {
      throw Error(std::string("brood: ") + option + " is " +
                  (least == 0 ? "negative" : "not positive"));
    }
    return time.count();
  }

  void set_limits(TaskSpec& spec, std::optional<std::chrono::nanoseconds> timeout,
                  unsigned retries) const {
    spec.retries = retries;
    if (timeout) spec.timeout_ns = require_positive(*timeout, "the timeout of a task", 1);
    if (is_debugged_) spec.timeout_ns = detail::kNoDeadline;
  }

  // Whoever is free ends the task when it is too late; if nobody is, the supervisor does.
  void watch_deadline(TaskTicket task, std::int64_t deadline) noexcept {
    const std::int64_t now = sys::now_ns();
    if (deadline <= now) {
      const bool ended = pool::counting_timed_out(view_, task.index, [&] {
        return pool::expire_pending(view_.state(task.index), task.generation);
      });
      if (ended) ended_waiting_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    pool::announce_deadline(view_, deadline, now);
  }

  [[nodiscard]] std::string name_of(TaskTicket task) const {
    std::string name = records_->name_of(task.index);
    return name.empty() ? name_of_code(task) : name;
  }
  [[nodiscard]] std::string name_of_code(TaskTicket task) const {
    // For statistics the task may have ended since, and its record be that of one being written.
    const std::atomic_ref thunk(view_.request(task.index).thunk);
    return pool::name_of_code(detail::find_thunk(thunk.load(std::memory_order_relaxed)),
                              records_->function_of(task));
  }

  [[nodiscard]] TaskWord word_of(TaskTicket task) const noexcept {
    return TaskWord::unpack(view_.state(task.index).word.load(std::memory_order_acquire));
  }

  [[nodiscard]] bool has_ended(TaskTicket task) const noexcept {
    return pool::has_ended(view_, task);
  }

  bool sleep_until(TaskTicket task, DeadlineNs deadline) {
    shm::TaskState& state = view_.state(task.index);
    // Whoever was looking may have been stopped before it found this one.
    if (word_of(task).phase == TaskPhase::pending) pool::call_one(view_, idle_);
    std::int64_t doubt_ns = sys::now_ns() + kFirstDoubtNs;
    std::int64_t patience_ns = kFirstDoubtNs;
    for (;;) {
      const std::optional<std::uint32_t> half = pool::announce_waiter(state, task.generation);
      if (has_ended(task)) return true;
      if (!half) pool::throw_overwritten();
      // In this order: a task that ended before the pool did has its result.
      if (std::exception_ptr failure = failure_of_pool()) {
        if (has_ended(task)) return true;
        std::rethrow_exception(failure);
      }
      const std::int64_t now = sys::now_ns();
      if (now >= deadline) return false;
      if (now >= doubt_ns) {
        // Most likely the task is just long; but a worker that lives on may have overwritten what
        // this waits for, or been stopped when it was to pass work on.
        view_.caller().doubts.fetch_add(1, std::memory_order_release);
        pool::call_supervisor(view_);
        patience_ns *= 2;
        doubt_ns = now + patience_ns;
      }
      start::futex_wait_serving_signals(pool::sleeping_half(state), *half,
                                        std::min(deadline, now + kLookUpNs));
      if (has_ended(task)) return true;
      // It was left to workers that don't come, and the supervisor does not look out either: it may
      // be stopped, too.
      if (word_of(task).phase == TaskPhase::pending) idle_.wake_one();
    }
  }

  [[nodiscard]] bool look_until(TaskTicket task, std::int64_t end) const noexcept {
    // With as many workers awake as processors, looking for long would take one from a worker.
    const std::size_t all = workers();
    const std::size_t awake = all - std::min(all, idle_.count_sleeping());
    if (awake >= cpus_) end = std::min(end, sys::now_ns() + kShortLookNs);
    do {
      for (int i = 0; i < 32; ++i) {
        if (has_ended(task)) return true;
        sys::cpu_relax();
      }
    } while (sys::now_ns() < end);
    return false;
  }

  // ---- this process

  // The workers are copies of this process as it was: they have the code that it had.
  [[nodiscard]] bool was_code_at_start(const void* function) const noexcept {
    if (!code_at_start_) return true;  // nobody knows without /proc
    const auto address = reinterpret_cast<std::uintptr_t>(function);
    const auto after =
        std::ranges::upper_bound(*code_at_start_, address, {}, &sys::MemoryRange::begin);
    return after != code_at_start_->begin() && address < std::prev(after)->end;
  }

  [[nodiscard]] bool is_mine() const noexcept { return owner_token_ == sys::process_token(); }

  void require_mine() const {
    if (is_mine()) [[likely]]
      return;
    if (pool::is_worker()) throw_pool_of_program();
    throw Error("brood: this pool belongs to the process that made it; make one of your own");
  }

  // In a forked copy: nothing here may be touched, not even given back.
  void abandon() noexcept {
    supervisor_pidfd_.release();
    if (watches_ != nullptr) watches_->abandon();
  }

  static std::uint64_t random_number() noexcept {
    std::uint64_t seed = 0;
    sys::random_bytes(std::as_writable_bytes(std::span(&seed, 1)));
    return seed;
  }

  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
  }

  std::uint64_t owner_token_;
  const std::uint64_t number_ = next_number();  // of this pool in this process
  std::atomic<std::size_t> workers_;
  const std::size_t most_workers_ = std::max(workers(), pool::kLeastCapacity);
  pool::SetupToSend setup_;
  std::size_t cpus_ = static_cast<std::size_t>(sys::usable_cpus());
  std::int64_t grace_ns_;
  // Nobody is to be hurried while somebody looks at a process with a debugger.
  const bool is_debugged_ = [] {
    const char* debug = std::getenv("BROOD_DEBUG");
    return debug != nullptr && std::string_view(debug) == "1";
  }();
  TaskSpec defaults_;
  std::atomic<std::uint64_t> cancelled_{0};
  std::atomic<std::uint64_t> ended_waiting_{0};  // that no worker had, ended from here
  std::string process_name_;
  warden::Family* family_ = nullptr;
  SegmentSize segment_size_{};
  detail::Addresses addresses_ = detail::Addresses::of_a_copy;
  shm::Segment segment_;
  PoolView view_;
  pool::IdleWorkers idle_;
  std::optional<pool::WaitingTasks> waiting_;  // always, once constructed
  std::size_t arena_limit_ = 0;
  detail::ThunkId thunks_at_start_ = 0;
  std::optional<std::vector<sys::MemoryRange>> code_at_start_;
  int supervisor_pid_ = 0;
  sys::Fd supervisor_pidfd_;
  std::atomic<bool> supervisor_gone_{false};
  start::LookTime look_time_;
  std::unique_ptr<pool::Records> records_;  // always, once constructed
  std::unique_ptr<pool::Watches> watches_;  // likewise
  std::unique_ptr<pool::KeptTasks> kept_;   // nullptr: nothing is kept
};

// Whoever can have tasks kept has init() know how they are run again.
[[maybe_unused]] const bool can_replay = (start::on_replay(pool::replay_and_exit), true);

}  // namespace

namespace detail {

DeadlineNs deadline_after(std::chrono::nanoseconds duration) noexcept {
  const std::int64_t now = sys::now_ns();
  if (duration.count() <= 0) return now;
  return duration.count() > kNoDeadline - now ? kNoDeadline : now + duration.count();
}

std::shared_ptr<PoolCore> PoolCore::start(const PoolOptions& options) {
  return std::make_shared<PoolCaller>(options);
}

// Not inlined into callers, where the compiler may take it that there is an object to look into.
const std::shared_ptr<PoolCore>& require_pool(const std::shared_ptr<PoolCore>* pool) {
  if (pool != nullptr && *pool != nullptr) [[likely]]
    return *pool;
  if (pool::is_worker()) {
    throw_pool_of_program(pool == nullptr ? "" : " (if this is one, it was moved from)");
  }
  if (pool == nullptr) throw Error("brood: the pointer to this pool is null");
  throw PoolClosed("brood: this pool was moved from");
}

}  // namespace detail

void Pool::end() noexcept {
  if (core_ == nullptr) return;
  core_->end();
  core_ = nullptr;
}

}  // namespace brood
