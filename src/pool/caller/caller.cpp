// The caller's side of a pool: makes it, hands tasks in, takes results out, ends it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "brood/detail/completion.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/pool.hpp"
#include "pool/caller/death_reports.hpp"
#include "pool/caller/kept_tasks.hpp"
#include "pool/caller/maker.hpp"
#include "pool/caller/outcome_wait.hpp"
#include "pool/caller/pool_end.hpp"
#include "pool/caller/pool_life.hpp"
#include "pool/caller/pool_memory.hpp"
#include "pool/caller/records.hpp"
#include "pool/caller/replay.hpp"
#include "pool/caller/reply.hpp"
#include "pool/caller/start_supervisor.hpp"
#include "pool/caller/stats.hpp"
#include "pool/caller/task_name.hpp"
#include "pool/caller/task_specs.hpp"
#include "pool/caller/watches.hpp"
#include "pool/caller/workers_code.hpp"
#include "pool/protocol/admission.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/completions.hpp"
#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/task.hpp"
#include "pool/protocol/task_clock.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_context.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "start/current.hpp"
#include "start/init.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/random.hpp"
#include "warden/family.hpp"

namespace brood {

namespace {

using detail::DeadlineNs;
using detail::TaskDraft;
using detail::TaskReply;
using detail::TaskSpec;
using detail::TaskTicket;
using pool::PoolView;
using shm::PoolCondition;
using shm::PoolOrder;
using shm::TaskPhase;
using shm::TaskWord;

constexpr std::size_t kMaxWorkers = 480;

// What a Pool and its futures ask for, each by the part that knows it:
//
//   TaskSpecs     what options say of a task   WorkersCode  which code the workers have
//   Records       the tasks' records           WaitingTasks how many may wait
//   OutcomeWait   waiting for one task         Watches      waiting for several
//   DeathReports  what is told of the dead     PoolLife     whether the pool lives, and why not
//   PoolEnd       how it is ended              Maker        which process may do all this
class PoolCaller final : public detail::PoolCore {
 public:
  explicit PoolCaller(const PoolOptions& options)
      : workers_(require_sizes(options)), specs_(options), process_name_("brood:" + options.name) {
    const start::Choice choice = start::choose(options.start);
    setup_ = pool::make_setup(options, choice.method);
    std::unique_ptr<pool::KeptTasks> kept;
    if (!options.keep_failed.empty()) {
      kept = std::make_unique<pool::KeptTasks>(options.keep_failed, options.name, setup_);
    }
    // What is kept is for a process that was executed afresh.
    if (kept != nullptr || choice.method == StartMethod::spawn) {
      addresses_ = detail::Addresses::of_its_own;
    }
    warden::Family& family = warden::Family::join();
    make_shared_objects(options, std::move(kept));
    const auto workers = static_cast<std::uint32_t>(workers_);
    pool::StartedSupervisor started =
        pool::start_supervisor({memory_, setup_, process_name_, workers,
                                std::max(options.restart_limit, 1U), options.grace.count()},
                               family, choice);
    code_ = std::move(started.code);
    life_.emplace(view_, family, std::move(started.pidfd), setup_.setup.memory_limit_bytes);
    end_.emplace(view_, maker_, *life_);
    wait_.emplace(view_, idle_, *life_);
    watches_->set_end(life_->pidfd());
    setup_.descriptors = start::StartDescriptors();
  }

  ~PoolCaller() override {
    // In a forked copy: nothing here may be touched, not even given back.
    if (maker_.is_me()) return;
    life_->abandon();
    watches_->abandon();
  }

  [[nodiscard]] std::size_t workers() const noexcept override {
    return workers_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] const TaskSpec& defaults() const noexcept override { return specs_.defaults(); }

  [[nodiscard]] TaskSpec spec_of(const TaskOptions& options) const override {
    return specs_.spec_of(options);
  }

  [[nodiscard]] detail::Addresses addresses() const noexcept override { return addresses_; }

  // ---- handing tasks in

  TaskDraft draft(const TaskSpec& spec) override {
    maker_.require_me();
    code_.require(spec);
    life_->require_open();
    return deaths_->with_room([&] { return records_->draft(spec); });
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
      maker_.require_me();
      life_->require_open();
      const sys::FutexWord& wanted = waiting_->want_room();
      if (waiting_->take_place()) return Place::taken;
      // Asked after the word was written, which a request that comes now writes again.
      if (stop.stop_requested()) continue;
      // Whoever was to take one of those that wait may have been stopped; see OutcomeWait.
      pool::call_one(view_, idle_);
      const std::int64_t look_up = now + sys::kLookUpNs;
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
    pool::look_out_later(view_);
    return task;
  }

  std::uint64_t place(const detail::BoundPtr& blob) override {
    const std::weak_ptr<PoolCore> self = weak_from_this();
    const auto free = [self](std::uint64_t block) {
      const std::shared_ptr<PoolCore> core = self.lock();
      if (core == nullptr) return;
      auto& pool = static_cast<PoolCaller&>(*core);
      if (pool.maker_.is_me()) pool.records_->free_in_inbox(block);
    };
    // Around all of it, not within: the blob is locked there.
    return deaths_->with_room(
        [&] { return blob->block_for(number_, [&] { return records_->place(*blob); }, free); });
  }

  // ---- waiting

  [[nodiscard]] bool ready(TaskTicket task) const noexcept override {
    if (!maker_.is_me()) return false;
    const TaskWord word = word_of(task);
    if (pool::has_outcome(word) || !pool::is_plausible(word, task.generation)) return true;
    const PoolCondition now = life_->condition();
    return now != PoolCondition::running && now != PoolCondition::starting;
  }

  bool wait(TaskTicket task, DeadlineNs deadline) override {
    maker_.require_me();
    return wait_->wait(task, deadline, workers());
  }

  bool cancel(TaskTicket task) noexcept override {
    if (!maker_.is_me()) return false;
    pool::Step change;
    const pool::CancelStep step =
        pool::cancel_task(view_.state(task.index), task.generation, change);
    pool::tell_if_watched(view_, task.index, change);
    if (step == pool::CancelStep::too_late) return false;
    if (step == pool::CancelStep::already) return true;
    cancelled_.fetch_add(1, std::memory_order_relaxed);
    if (step == pool::CancelStep::ended) ended_waiting_.fetch_add(1, std::memory_order_relaxed);
    // Its worker is given its grace; a pool that drains may have waited for this one alone.
    if (step == pool::CancelStep::stopping || life_->order() != PoolOrder::run) {
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
    if (!maker_.is_me()) return false;
    const TaskWord word = word_of(task);
    return word.generation == task.generation && word.settled && !word.expired;
  }
  [[nodiscard]] bool is_running(TaskTicket task) const noexcept override {
    if (!maker_.is_me()) return false;
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
    if (reply.kind == TaskReply::Kind::died) {
      throw WorkerDied(deaths_->report(task, reply, index));
    }
    pool::throw_reply(view_, task, reply, name_of(task));
  }

  detail::CompletionSource& completions() override {
    maker_.require_me();
    return *watches_;
  }

  [[nodiscard]] bool is_pending(TaskTicket task) const noexcept override {
    return word_of(task).phase == TaskPhase::pending;
  }

  [[nodiscard]] std::uint32_t elements_done(TaskTicket task) const noexcept override {
    if (!maker_.is_me() || word_of(task).generation != task.generation) return 0;
    return view_.state(task.index).progress.load(std::memory_order_acquire);
  }

  [[nodiscard]] std::chrono::microseconds busy_time(TaskTicket task) const noexcept override {
    if (!has_ended(task)) return {};
    const std::uint32_t busy =
        std::atomic_ref(view_.state(task.index).busy_us).load(std::memory_order_relaxed);
    return std::chrono::microseconds(busy);
  }

  void release(TaskTicket task) noexcept override {
    if (!maker_.is_me()) return;
    watches_->forget(task);
    records_->release(task, life_->is_over());
    deaths_->keep_unseen();
  }

  // ---- the end

  void resize(std::size_t workers) override {
    maker_.require_me();
    life_->require_open();
    if (workers == 0 || workers > most_workers_) {
      throw Error("brood: this pool can have 1 to " + std::to_string(most_workers_) +
                  " workers, not " + std::to_string(workers));
    }
    workers_.store(workers, std::memory_order_relaxed);
    view_.caller().workers.store(static_cast<std::uint32_t>(workers), std::memory_order_release);
    pool::call_supervisor(view_);
  }

  void close() noexcept override { end_->close(); }

  void terminate() noexcept override { end_->terminate(); }

  bool join_until(DeadlineNs deadline) override { return end_->join_until(deadline); }

  bool shutdown(DeadlineNs drain, std::chrono::nanoseconds term) override {
    return end_->shutdown(drain, term);
  }

  void end() noexcept override {
    if (!maker_.is_me()) return;
    end_->end();
    deaths_->finish();
  }

  [[nodiscard]] PoolStats stats() const override {
    maker_.require_me();
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
  static std::size_t require_sizes(const PoolOptions& options) {
    pool::require_time(options.grace, "PoolOptions::grace", 0);
    if (options.workers == 0 || options.workers > kMaxWorkers) {
      throw StartError("brood: a pool has 1 to " + std::to_string(kMaxWorkers) + " workers, not " +
                       std::to_string(options.workers));
    }
    if (options.max_pending == 0) {
      throw StartError("brood: PoolOptions::max_pending is at least 1");
    }
    return options.workers;
  }

  void make_shared_objects(const PoolOptions& options, std::unique_ptr<pool::KeptTasks> kept) {
    memory_ = pool::PoolMemory::make(workers_);
    view_ = memory_.view;
    idle_ = pool::IdleWorkers(view_);
    view_.caller().member = warden::ObjectSpace::join().objects().me();
    records_ = std::make_unique<pool::Records>(memory_.segment, view_, memory_.arena_limit_bytes);
    deaths_.emplace(view_, *records_, setup_, std::move(kept));
    watches_ = std::make_unique<pool::Watches>(memory_.segment, view_,
                                               [this] { return life_->is_over_now(); });
    waiting_.emplace(view_, options.max_pending);
    view_.caller().seed = options.seed ? *options.seed : random_number();
    view_.caller().door_id.store(random_number(), std::memory_order_relaxed);
    view_.caller().workers.store(static_cast<std::uint32_t>(workers_), std::memory_order_relaxed);
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
    return pool::name_of_task(view_, *records_, task);
  }

  [[nodiscard]] TaskWord word_of(TaskTicket task) const noexcept {
    return TaskWord::unpack(view_.state(task.index).word.load(std::memory_order_acquire));
  }

  [[nodiscard]] bool has_ended(TaskTicket task) const noexcept {
    return pool::has_ended(view_, task);
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

  pool::Maker maker_;
  const std::uint64_t number_ = next_number();  // of this pool in this process
  std::atomic<std::size_t> workers_;
  const std::size_t most_workers_ = std::max(workers(), pool::kLeastCapacity);
  pool::SetupToSend setup_;
  pool::TaskSpecs specs_;
  std::atomic<std::uint64_t> cancelled_{0};
  std::atomic<std::uint64_t> ended_waiting_{0};  // that no worker had, ended from here
  std::string process_name_;
  detail::Addresses addresses_ = detail::Addresses::of_a_copy;
  pool::WorkersCode code_;
  pool::PoolMemory memory_;
  PoolView view_;
  pool::IdleWorkers idle_;
  // All that follow are there, once constructed.
  std::optional<pool::WaitingTasks> waiting_;
  std::optional<pool::PoolLife> life_;
  std::optional<pool::PoolEnd> end_;
  std::optional<pool::OutcomeWait> wait_;
  std::unique_ptr<pool::Records> records_;
  std::unique_ptr<pool::Watches> watches_;
  std::optional<pool::DeathReports> deaths_;
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
    pool::throw_pool_of_program(pool == nullptr ? "" : " (if this is one, it was moved from)");
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
