// A pool whose workers are threads (brood/thread_pool.hpp).
#include "brood/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "brood/detail/completion.hpp"
#include "pool/futures/thread_task.hpp"
#include "pool/protocol/stop.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/event_fd.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood {

namespace pool {
constinit thread_local const std::atomic<bool>* stop_of_thread = nullptr;

namespace {

constinit thread_local ThreadTask* task_of_thread = nullptr;

}  // namespace
}  // namespace pool

namespace {

using detail::DeadlineNs;
using detail::TaskDraft;
using detail::TaskReply;
using detail::TaskSpec;
using detail::TaskTicket;
using pool::Outcome;
using pool::ThreadFrame;
using pool::ThreadTask;
using pool::Watcher;

// Threads, Blocking, Ownership, Errors: see ThreadPool and PoolCore. Death: all is private memory.
class ThreadCore final : public detail::PoolCore, private detail::CompletionSource {
 public:
  explicit ThreadCore(std::size_t workers) : done_(workers), is_running_(workers) {
    if (workers == 0) throw StartError("brood: a pool has at least one worker");
    const sys::SignalsBlocked blocked;
    try {
      for (std::size_t i = 0; i < workers; ++i) {
        threads_->emplace_back([this, i] { work(i); });
      }
    } catch (...) {
      end();
      throw;
    }
  }
  ~ThreadCore() override {
    // The threads are in the process that made them; here are only their names.
    if (is_mine()) return;
    static_cast<void>(threads_.release());
    // Its end would wait for those who sleep on it.
    static_cast<void>(change_.release());
  }

  [[nodiscard]] std::size_t workers() const noexcept override { return done_.size(); }
  [[nodiscard]] const TaskSpec& defaults() const noexcept override { return defaults_; }
  [[nodiscard]] TaskSpec spec_of(const TaskOptions& options) const override {
    TaskSpec spec = defaults_;
    if (options.stop.stop_requested()) spec.ended = detail::EndedBefore::cancelled;
    return spec;
  }
  void resize(std::size_t workers) override {
    if (workers != done_.size()) throw Error("brood: a ThreadPool keeps the threads it began with");
  }
  Place admit(TaskSpec& /*spec*/, const std::stop_token& /*stop*/, DeadlineNs /*limit*/) override {
    return Place::taken;
  }
  void leave() noexcept override {}
  [[nodiscard]] detail::Addresses addresses() const noexcept override {
    return detail::Addresses::of_a_copy;
  }

  // ---- handing tasks in

  TaskDraft draft(const TaskSpec& spec) override {
    require_mine();
    const std::lock_guard lock(mutex_);
    if (order_ != Order::run) throw PoolClosed("brood: the pool is closed; make a new one");
    auto task = std::make_shared<ThreadTask>();
    task->spec = spec;
    task->arguments.resize((spec.argument_bytes + sizeof(std::max_align_t) - 1) /
                           sizeof(std::max_align_t));
    task->outcomes.resize(std::max<std::uint32_t>(spec.elements, 1));
    if (free_.empty()) {
      tasks_.emplace_back();
      free_.push_back(static_cast<std::uint32_t>(tasks_.size() - 1));
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    task->generation = ++last_generation_ == 0 ? ++last_generation_ : last_generation_;
    tasks_[index] = task;
    return {index, spec.priority, spec.ended,
            std::as_writable_bytes(std::span(task->arguments)).first(spec.argument_bytes)};
  }
  void drop(const TaskDraft& draft) noexcept override {
    const std::lock_guard lock(mutex_);
    tasks_[draft.index] = nullptr;
    free_.push_back(draft.index);
  }
  TaskTicket commit(const TaskDraft& draft, detail::TaskBaggage baggage) override {
    const std::lock_guard lock(mutex_);
    const std::shared_ptr<ThreadTask>& task = tasks_[draft.index];
    task->baggage = std::move(baggage);
    if (draft.ended != detail::EndedBefore::no) {
      task->cancel();
      finish_locked(*task);
      return {draft.index, task->generation};
    }
    queue_.push_back({task, {}});
    change_->notify_one();
    return {draft.index, task->generation};
  }
  std::uint64_t place(const detail::BoundPtr& blob) override {
    const std::weak_ptr<PoolCore> self = weak_from_this();
    const auto make = [&] {
      std::vector<std::byte> bytes(blob->size());
      blob->encode(bytes);
      const std::lock_guard lock(mutex_);
      blocks_.emplace(++last_block_, std::move(bytes));
      return last_block_;
    };
    return blob->block_for(number_, make, [self](std::uint64_t block) {
      const std::shared_ptr<PoolCore> core = self.lock();
      if (core == nullptr) return;
      auto& pool = static_cast<ThreadCore&>(*core);
      if (!pool.is_mine()) return;
      const std::lock_guard lock(pool.mutex_);
      pool.blocks_.erase(block);
    });
  }
  void post(Posted job) {
    require_mine();
    const std::lock_guard lock(mutex_);
    if (order_ != Order::run) throw PoolClosed("brood: the pool is closed; make a new one");
    queue_.push_back({nullptr, std::move(job)});
    change_->notify_one();
  }

  // ---- results

  [[nodiscard]] bool ready(TaskTicket task) const noexcept override {
    const auto known = find(task);
    return known == nullptr || known->has_ended();
  }
  bool wait(TaskTicket task, DeadlineNs deadline) override {
    const auto known = require(task);
    return detail::wait_for_flag(known->ended, deadline);
  }
  bool cancel(TaskTicket ticket) noexcept override {
    if (!is_mine()) return false;
    const std::lock_guard lock(mutex_);
    const auto task = find_locked(ticket);
    if (task == nullptr) return false;
    if (task->has_ended()) return task->is_cancelled.load();
    task->cancel();
    std::erase_if(queue_, [&](const Item& item) { return item.task == task; });
    finish_locked(*task);
    return true;
  }
  void cancel_on(const std::stop_token& stop, TaskTicket ticket) override {
    const auto cancel_it = [this, ticket] { cancel(ticket); };
    auto callback = std::make_shared<std::stop_callback<decltype(cancel_it)>>(stop, cancel_it);
    const std::lock_guard lock(mutex_);
    if (const auto task = find_locked(ticket)) task->baggage.stop = std::move(callback);
  }
  [[nodiscard]] bool is_cancelled(TaskTicket task) const noexcept override {
    const auto known = find(task);
    return known != nullptr && known->is_cancelled.load();
  }
  [[nodiscard]] bool is_running(TaskTicket task) const noexcept override {
    const auto known = find(task);
    return known != nullptr && known->is_taken.load() && !known->has_ended();
  }

  [[nodiscard]] TaskReply reply(TaskTicket task) const override {
    return reply_of_element(task, 0);
  }
  [[nodiscard]] TaskReply reply_of_element(TaskTicket task, std::uint32_t index) const override {
    const auto known = require(task);
    // Of a chunk, what had ended by then stands.
    if (known->is_cancelled.load() && index >= known->progress.load(std::memory_order_acquire)) {
      return {TaskReply::Kind::cancelled, {}};
    }
    const Outcome& outcome = known->outcomes.at(index);
    if (outcome.has_value) return {TaskReply::Kind::value, outcome.bytes};
    return {TaskReply::Kind::exception, std::as_bytes(std::span(&outcome.error, 1))};
  }
  // The bytes are those of the exception_ptr itself.
  [[noreturn]] void throw_reply(TaskTicket /*task*/, const TaskReply& reply,
                                std::size_t /*index*/) const override {
    if (reply.kind == TaskReply::Kind::cancelled) throw Cancelled("brood: the task was cancelled");
    std::rethrow_exception(*reinterpret_cast<const std::exception_ptr*>(reply.bytes.data()));
  }
  detail::CompletionSource& completions() override {
    require_mine();
    return *this;
  }
  [[nodiscard]] bool is_pending(TaskTicket task) const noexcept override {
    const auto known = find(task);
    return known != nullptr && !known->is_taken.load();
  }
  [[nodiscard]] std::uint32_t elements_done(TaskTicket task) const noexcept override {
    const auto known = find(task);
    return known == nullptr ? 0 : known->progress.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::chrono::microseconds busy_time(TaskTicket task) const noexcept override {
    const auto known = find(task);
    if (known == nullptr || !known->has_ended()) return {};
    return std::chrono::microseconds(known->busy_us);
  }
  void release(TaskTicket ticket) noexcept override {
    if (!is_mine()) return;
    std::shared_ptr<ThreadTask> gone;  // freed without the lock
    const std::lock_guard lock(mutex_);
    if (ticket.index >= tasks_.size()) return;
    std::shared_ptr<ThreadTask>& task = tasks_[ticket.index];
    if (task == nullptr || task->generation != ticket.generation) return;
    report(*task);
    task->door.reset();
    gone = std::move(task);
    task = nullptr;
    free_.push_back(ticket.index);
  }

  // ---- the end

  void close() noexcept override { raise(Order::drain); }
  void terminate() noexcept override {
    if (!is_mine()) return;
    raise(Order::terminate);
    std::deque<Item> dropped;
    {
      const std::lock_guard lock(mutex_);
      dropped.swap(queue_);
    }
    for (const Item& item : dropped) {
      if (item.task == nullptr) continue;
      const auto error =
          std::make_exception_ptr(PoolClosed("brood: the pool ended before this task did"));
      for (Outcome& outcome : item.task->outcomes) outcome.error = error;
      finish(*item.task);
    }
  }
  bool join_until(DeadlineNs deadline) override {
    require_mine();
    {
      const std::lock_guard lock(mutex_);
      if (order_ == Order::run) {
        throw Error("brood: join() waits for a pool to end: call close() or terminate() first");
      }
    }
    if (!detail::wait_for_flag(all_left_, deadline)) return false;
    join_threads();
    return true;
  }
  bool shutdown(DeadlineNs drain, std::chrono::nanoseconds /*term*/) override {
    close();
    if (join_until(drain)) return true;
    terminate();
    join_until(detail::kNoDeadline);
    return false;
  }
  void end() noexcept override {
    if (!is_mine()) return;
    terminate();
    join_threads();
  }

  [[nodiscard]] PoolStats stats() const override {
    require_mine();
    PoolStats stats;
    const std::lock_guard lock(mutex_);
    stats.pending = queue_.size();
    for (std::size_t i = 0; i < done_.size(); ++i) {
      PoolStats::Worker worker;
      worker.pid = static_cast<int>(sys::process_id());
      worker.state = is_running_[i] ? "running" : "idle";
      worker.done = done_[i];
      stats.running += is_running_[i] ? 1U : 0U;
      stats.done += done_[i];
      stats.workers.push_back(std::move(worker));
    }
    return stats;
  }

 private:
  enum class Order { run, drain, terminate };
  struct Item {
    std::shared_ptr<ThreadTask> task;  // or
    Posted job;
  };

  // ---- those who wait for several

  void watch(TaskTicket ticket, detail::CompletionSink& sink, std::uint32_t slot) override {
    const std::lock_guard lock(mutex_);
    const auto task = find_locked(ticket);
    if (task == nullptr || task->has_ended()) return sink.ended(slot);
    task->watchers.push_back({&sink, slot});
  }
  void unwatch(TaskTicket ticket, detail::CompletionSink& sink,
               std::uint32_t slot) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto task = find_locked(ticket);
    if (task == nullptr) return;
    std::erase_if(task->watchers,
                  [&](const Watcher& w) { return w.sink == &sink && w.slot == slot; });
  }
  // The threads themselves report.
  [[nodiscard]] bool has_news() const noexcept override { return false; }
  bool collect() noexcept override { return false; }
  bool look_at_all(bool /*doubt*/) noexcept override { return false; }
  Bell listen() noexcept override { return {}; }
  [[nodiscard]] std::int64_t most_look_ns() const noexcept override { return 2'000; }
  Descriptors descriptors() override { return {}; }
  void arm() noexcept override {}
  int door(TaskTicket ticket) override {
    const std::lock_guard lock(mutex_);
    const auto task = find_locked(ticket);
    if (task == nullptr) throw Error("brood: this future has nothing to get");
    if (!task->door) {
      task->door.reset(
          static_cast<int>(sys::require(sys::open_event(), "opening a future's door")));
      if (task->has_ended()) sys::set_event(task->door.get());
    }
    return task->door.get();
  }

  static void report(ThreadTask& task) noexcept {
    for (const Watcher& watcher : task.watchers) watcher.sink->ended(watcher.slot);
    task.watchers.clear();
  }

  // ---- running

  void finish(ThreadTask& task) noexcept {
    const std::lock_guard lock(mutex_);
    finish_locked(task);
  }
  void finish_locked(ThreadTask& task) noexcept {
    if (task.has_ended()) return;
    detail::raise_flag(task.ended);
    if (task.door) sys::set_event(task.door.get());
    report(task);
  }

  void work(std::size_t number) noexcept {
    ThreadFrame::Bound bound;
    for (;;) {
      Item item;
      {
        std::unique_lock lock(mutex_);
        change_->wait(lock, [this] { return !queue_.empty() || order_ != Order::run; });
        if (queue_.empty()) {
          if (++left_ == done_.size()) detail::raise_flag(all_left_);
          return;
        }
        item = std::move(queue_.front());
        queue_.pop_front();
        is_running_[number] = true;
      }
      if (item.task != nullptr) {
        run(*item.task, bound);
      } else {
        run(item.job);
      }
      {
        const std::lock_guard lock(mutex_);
        is_running_[number] = false;
        ++done_[number];
      }
      if (item.task != nullptr) finish(*item.task);
    }
  }

  void run(ThreadTask& task, ThreadFrame::Bound& bound) noexcept {
    task.is_taken.store(true);
    const std::int64_t begin = sys::now_ns();
    const ThreadFrame::BoundBytes bytes = [this](std::uint64_t block) {
      const std::lock_guard lock(mutex_);
      return std::span<const std::byte>(blocks_.at(block));
    };
    ThreadFrame frame(task, bound, bytes);
    pool::stop_of_thread = &task.is_cancelled;
    pool::task_of_thread = &task;
    try {
      detail::find_thunk(task.spec.thunk).run(frame);
    } catch (...) {
      for (Outcome& outcome : task.outcomes) {
        if (task.spec.elements != 0 && outcome.has_value) continue;
        outcome.has_value = false;
        outcome.error = std::current_exception();
      }
    }
    pool::stop_of_thread = nullptr;
    pool::task_of_thread = nullptr;
    task.busy_us = std::max<std::int64_t>((sys::now_ns() - begin) / 1000, 1);
  }

  static void run(Posted& job) noexcept {
    try {
      job();
    } catch (...) {
      detail::log_exception("a function posted to a ThreadPool");
    }
  }

  // ---- little helpers

  [[nodiscard]] bool is_mine() const noexcept { return token_ == sys::process_token(); }
  void require_mine() const {
    if (!is_mine()) {
      throw Error("brood: this pool belongs to the process that made it; make one of your own");
    }
  }
  [[nodiscard]] std::shared_ptr<ThreadTask> find_locked(TaskTicket ticket) const noexcept {
    if (ticket.index >= tasks_.size()) return nullptr;
    const std::shared_ptr<ThreadTask>& task = tasks_[ticket.index];
    return task != nullptr && task->generation == ticket.generation ? task : nullptr;
  }
  [[nodiscard]] std::shared_ptr<ThreadTask> find(TaskTicket ticket) const noexcept {
    if (!is_mine()) return nullptr;
    const std::lock_guard lock(mutex_);
    return find_locked(ticket);
  }
  [[nodiscard]] std::shared_ptr<ThreadTask> require(TaskTicket ticket) const {
    require_mine();
    auto task = find(ticket);
    if (task == nullptr) throw Error("brood: this future has nothing to get");
    return task;
  }
  void raise(Order to) noexcept {
    if (!is_mine()) return;
    const std::lock_guard lock(mutex_);
    order_ = std::max(order_, to);
    change_->notify_all();
  }
  void join_threads() noexcept {
    const std::lock_guard joining(joining_);
    for (std::thread& thread : *threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> last{std::uint64_t{1} << 63U};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
  }

  const TaskSpec defaults_;
  const std::uint64_t token_ = sys::process_token();
  const std::uint64_t number_ = next_number();  // none of a Pool's
  mutable std::mutex mutex_;                    // guards what follows but the threads
  std::unique_ptr<std::condition_variable> change_ = std::make_unique<std::condition_variable>();
  Order order_ = Order::run;
  std::deque<Item> queue_;
  std::vector<std::shared_ptr<ThreadTask>> tasks_;
  std::vector<std::uint32_t> free_;
  std::uint32_t last_generation_ = 0;
  std::unordered_map<std::uint64_t, std::vector<std::byte>> blocks_;
  std::uint64_t last_block_ = 0;
  std::vector<std::uint64_t> done_;
  std::vector<bool> is_running_;
  std::size_t left_ = 0;
  std::uint32_t all_left_ = 0;
  std::mutex joining_;
  std::unique_ptr<std::vector<std::thread>> threads_ = std::make_unique<std::vector<std::thread>>();
};

}  // namespace

int pool::stop_fd_of_thread() { return task_of_thread->stop_fd(); }

ThreadPool::ThreadPool(std::size_t workers)
    : Pool(OfAnotherKind{}, std::make_shared<ThreadCore>(workers)) {}

void ThreadPool::post(Posted job) { static_cast<ThreadCore&>(core()).post(std::move(job)); }

}  // namespace brood
