// Jobs that run when tasks have ended (brood/executor.hpp).
#include <atomic>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "brood/detail/completion.hpp"
#include "brood/error.hpp"
#include "brood/executor.hpp"
#include "brood/log.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/signals.hpp"

namespace brood::detail {

namespace {

class TheLoop final : public LoopCore {
 public:
  void when_ended(std::shared_ptr<PoolCore> core, TaskTicket task, Posted job) override {
    std::uint64_t tag = 0;
    {
      const std::lock_guard lock(mutex_);
      tag = next_tag_++;
      awaited_.emplace(tag, std::move(job));
    }
    try {
      completions_->add(core, task, tag);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      awaited_.erase(tag);
      throw;
    }
  }

  void post(Posted job) override {
    {
      const std::lock_guard lock(mutex_);
      posted_.push_back(std::move(job));
    }
    completions_->wake();
  }

  std::size_t run_until(DeadlineNs deadline, bool idle) override {
    std::size_t count = 0;
    for (;;) {
      count += run_posted();
      if (take_stop()) return count;
      const auto tag = completions_->next_until(deadline, idle);
      if (tag) {
        run(take_awaited(*tag));
        ++count;
        continue;
      }
      if (has_posted()) continue;
      const bool is_over = !idle && completions_->empty();
      if (is_over || sys::now_ns() >= deadline) {
        take_stop();
        return count;
      }
    }
  }

  void stop() noexcept override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    completions_->wake();
  }

  int fileno() override { return completions_->fileno(); }

  void forget_pools() noexcept { completions_->forget_pools(); }

  [[nodiscard]] bool is_idle() noexcept {
    const std::lock_guard lock(mutex_);
    return posted_.empty() && awaited_.empty();
  }

 private:
  static void run(Posted job) noexcept {
    if (!job) return;
    try {
      job();
    } catch (...) {
      log_exception("a function posted to a loop");
    }
  }

  // Those that are there now: what they post themselves is for the next round.
  std::size_t run_posted() noexcept {
    std::deque<Posted> now;
    {
      const std::lock_guard lock(mutex_);
      now.swap(posted_);
    }
    for (Posted& job : now) run(std::move(job));
    return now.size();
  }

  Posted take_awaited(std::uint64_t tag) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = awaited_.find(tag);
    if (found == awaited_.end()) return {};
    Posted job = std::move(found->second);
    awaited_.erase(found);
    return job;
  }

  bool has_posted() noexcept {
    const std::lock_guard lock(mutex_);
    return !posted_.empty();
  }
  bool take_stop() noexcept {
    const std::lock_guard lock(mutex_);
    return std::exchange(stopped_, false);
  }

  std::mutex mutex_;
  std::deque<Posted> posted_;
  std::unordered_map<std::uint64_t, Posted> awaited_;
  std::uint64_t next_tag_ = 0;
  bool stopped_ = false;
  // The last: it may report to us until it is gone.
  std::unique_ptr<CompletionCore> completions_ = CompletionCore::make();
};

// A loop with a thread that lives while there is something to wait for.
class CompletionThread final : public LoopCore {
 public:
  ~CompletionThread() override {
    ending_.store(true);
    loop_.stop();
    if (thread_.joinable()) thread_.join();
  }

  void when_ended(std::shared_ptr<PoolCore> core, TaskTicket task, Posted job) override {
    loop_.when_ended(std::move(core), task, std::move(job));
    run_thread();
  }
  void post(Posted job) override {
    loop_.post(std::move(job));
    run_thread();
  }
  std::size_t run_until(DeadlineNs /*deadline*/, bool /*idle*/) override { return 0; }
  void stop() noexcept override {}
  int fileno() override { return -1; }

 private:
  void run_thread() {
    const std::lock_guard lock(mutex_);
    if (is_running_) return;
    if (thread_.joinable()) thread_.join();
    // Signals are for threads that know what to do with them.
    const sys::SignalsBlocked blocked;
    thread_ = std::thread([this] { run(); });
    is_running_ = true;
  }

  void run() noexcept {
    while (!may_end()) {
      try {
        loop_.run_until(kNoDeadline, false);
      } catch (const Interrupted&) {
        // Not for this thread.
      } catch (...) {
        log_exception("a signal handler in brood's completion thread");
      }
    }
  }

  bool may_end() noexcept {
    const std::lock_guard lock(mutex_);
    if (!ending_.load() && !loop_.is_idle()) return false;
    loop_.forget_pools();
    // What comes from now on finds it gone.
    is_running_ = false;
    return true;
  }

  TheLoop loop_;
  std::atomic<bool> ending_{false};
  std::mutex mutex_;  // guards what follows
  bool is_running_ = false;
  std::thread thread_;
};

// A forked child has no such thread, and makes one of its own if it needs to.
struct ThreadOfProcess {
  std::mutex mutex;
  std::uint64_t token = 0;
  CompletionThread* thread = nullptr;

  ~ThreadOfProcess() {
    if (thread != nullptr && token == sys::process_token()) delete thread;
  }
};

}  // namespace

std::unique_ptr<LoopCore> LoopCore::make() { return std::make_unique<TheLoop>(); }

LoopCore& completion_thread() {
  static ThreadOfProcess mine;
  const std::lock_guard lock(mine.mutex);
  if (mine.thread == nullptr || mine.token != sys::process_token()) {
    mine.thread = new CompletionThread;
    mine.token = sys::process_token();
  }
  return *mine.thread;
}

void log_exception(const char* where) noexcept {
  try {
    std::string text = std::string("brood: ") + where + " threw: ";
    try {
      throw;
    } catch (const std::exception& e) {
      text += e.what();
    } catch (...) {
      text += "something";
    }
    log(LogLevel::warning, text);
  } catch (...) {
    // Without memory a record is lost.
  }
}

}  // namespace brood::detail
