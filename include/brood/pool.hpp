// A pool of worker processes.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <ranges>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/cpu_count.hpp"
#include "brood/detail/call_job.hpp"
#include "brood/detail/map_call.hpp"
#include "brood/detail/map_job.hpp"
#include "brood/future.hpp"
#include "brood/imap.hpp"
#include "brood/map_future.hpp"
#include "brood/pool_options.hpp"
#include "brood/start_method.hpp"
#include "brood/worker.hpp"

namespace brood {

// Runs functions in worker processes and survives their crashes.
//
// Workers are copies of this process as it was when the Pool was made: its globals, files,
// directory and environment. Later changes do not reach them: pass values. What they print goes
// where yours goes, at the latest when the task ends; of one that dies in its task, lines that were
// still in its buffers are lost.
//
//   Threads:   all members may be called from several threads at once.
//   Blocking:  apply(), map(), join() and shutdown(); the destructor for the time that ending the
//              workers takes. submit() only while PoolOptions::max_pending tasks wait, and no
//              longer than the task's deadline and stop token let it.
//   Ownership: movable. The destructor ends the workers at once and drops what they run, like
//              terminate(): get your results, or close() and join(), before. No thread, signal
//              handler or SIGCHLD is used in this process. In a process that you fork yourself,
//              copies of a Pool are inert.
//   Errors:    StartError, NotSendable, SystemError, ArenaFull from the constructor; see submit().
//   Death:     a worker that dies, by whatever means and at whatever instruction, fails the task
//              it was running with WorkerDied (or starts it again, see retries) and is replaced.
//              If this process dies, all workers are gone within a second.
class Pool {
 protected:
  struct OfAnotherKind {};
  // ThreadPool. Here and so, since compilers name it with those that options do not fit.
  Pool(OfAnotherKind /*tag*/, std::shared_ptr<detail::PoolCore> core) noexcept
      : core_(std::move(core)) {}

 public:
  Pool(Pool&&) noexcept = default;
  Pool() : Pool(PoolOptions{}) {}
  explicit Pool(std::size_t workers) : Pool(PoolOptions{.workers = workers}) {}
  explicit Pool(const PoolOptions& options) : core_(detail::PoolCore::start(options)) {}
  Pool& operator=(Pool&& other) noexcept {
    if (this != &other) {
      end();
      core_ = std::move(other.core_);
    }
    return *this;
  }
  ~Pool() { end(); }

  // Has f(args...) called in a worker. f may capture plain data; strings, containers and handles
  // are arguments, or bind_front()'s. Arguments are converted to f's parameter types here;
  // span<const T> and string_view parameters take any contiguous range and are read in place.
  // Throws NotSendable (a closure points into this process's memory), PoolClosed, BrokenPool,
  // FamilyBroken, ArenaFull; then nothing was submitted and the arguments are untouched.
  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, TaskOptions>)
  auto submit(F&& f, Args&&... args) {
    return *admitted(core().defaults(), {}, detail::kNoDeadline, f, std::forward<Args>(args)...);
  }
  template <class F, class... Args>
  auto submit(const TaskOptions& options, F&& f, Args&&... args) {
    return *admitted(options, detail::kNoDeadline, f, std::forward<Args>(args)...);
  }

  // The same if there is room (PoolOptions::max_pending) now, or before `limit` has passed; else
  // nullopt, and the arguments are untouched. What its deadline or stop token ends before needs no
  // room: a Future says so.
  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, TaskOptions>)
  auto try_submit(F&& f, Args&&... args) {
    return admitted(core().defaults(), {}, 0, f, std::forward<Args>(args)...);
  }
  template <class F, class... Args>
  auto try_submit(const TaskOptions& options, F&& f, Args&&... args) {
    return admitted(options, 0, f, std::forward<Args>(args)...);
  }
  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, TaskOptions>)
  auto submit_for(std::chrono::nanoseconds limit, F&& f, Args&&... args) {
    return admitted(core().defaults(), {}, detail::deadline_after(limit), f,
                    std::forward<Args>(args)...);
  }
  template <class F, class... Args>
  auto submit_for(std::chrono::nanoseconds limit, const TaskOptions& options, F&& f,
                  Args&&... args) {
    return admitted(options, detail::deadline_after(limit), f, std::forward<Args>(args)...);
  }

  // Python's name for submit.
  template <class F, class... Args>
  auto apply_async(F&& f, Args&&... args) {
    return submit(std::forward<F>(f), std::forward<Args>(args)...);
  }
  template <class F, class... Args>
  auto apply_async(const TaskOptions& options, F&& f, Args&&... args) {
    return submit(options, std::forward<F>(f), std::forward<Args>(args)...);
  }

  // submit() and get().
  template <class F, class... Args>
  auto apply(F&& f, Args&&... args) {
    return submit(std::forward<F>(f), std::forward<Args>(args)...).get();
  }
  template <class F, class... Args>
  auto apply(const TaskOptions& options, F&& f, Args&&... args) {
    return submit(options, std::forward<F>(f), std::forward<Args>(args)...).get();
  }

  // f of every element of `range`, in their order; nothing for void. The element is the task: if a
  // worker dies, that costs the element it was at, the others keep their results or run elsewhere.
  // After all elements ended, the first error by position is thrown; WorkerDied has its index.
  // TimeoutError if MapOptions::timeout passes first, Interrupted (signals.hpp) and what a progress
  // function throws cancel the elements without an outcome, as MapFuture::cancel() does.
  template <class F, std::ranges::input_range Range>
  auto map(F&& f, Range&& range, const MapOptions& options = {}) {
    return mapped<detail::AsOne>(f, range, options).collect(deadline_of(options));
  }

  template <class F, class T>
  auto map(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return mapped<detail::AsOne>(f, elements, options).collect(deadline_of(options));
  }

  // The same, but each element's outcome by itself: what some throw costs the others nothing.
  template <class F, std::ranges::input_range Range>
  auto map_results(F&& f, Range&& range, const MapOptions& options = {}) {
    return mapped<detail::AsOne>(f, range, options).collect_results(deadline_of(options));
  }
  template <class F, class T>
  auto map_results(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return mapped<detail::AsOne>(f, elements, options).collect_results(deadline_of(options));
  }

  // As map() and map_results() with f(parts...) of each element, a tuple, pair or array. In
  // {{1, "a"}, {2, "b"}} the parts are of the types that f takes, which one with a templated or
  // overloaded call operator does not tell.
  template <class F, std::ranges::input_range Range = detail::ArgumentLists<F>>
  auto starmap(F&& f, Range&& range, const MapOptions& options = {}) {
    return mapped<detail::Spread>(f, range, options).collect(deadline_of(options));
  }
  template <class F, class T>
  auto starmap(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return mapped<detail::Spread>(f, elements, options).collect(deadline_of(options));
  }
  template <class F, std::ranges::input_range Range = detail::ArgumentLists<F>>
  auto starmap_results(F&& f, Range&& range, const MapOptions& options = {}) {
    return mapped<detail::Spread>(f, range, options).collect_results(deadline_of(options));
  }
  template <class F, class T>
  auto starmap_results(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return mapped<detail::Spread>(f, elements, options).collect_results(deadline_of(options));
  }

  // The same without waiting, but for up to 2 ms to find the size of chunks (MapOptions): all
  // elements are submitted, and their results come when they are asked for. The timeout is that of
  // get(), which cancels nothing.
  template <class F, std::ranges::input_range Range>
  auto map_async(F&& f, Range&& range, const MapOptions& options = {}) {
    return promised<detail::AsOne>(f, range, options);
  }
  template <class F, class T>
  auto map_async(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return promised<detail::AsOne>(f, elements, options);
  }
  template <class F, std::ranges::input_range Range = detail::ArgumentLists<F>>
  auto starmap_async(F&& f, Range&& range, const MapOptions& options = {}) {
    return promised<detail::Spread>(f, range, options);
  }
  template <class F, class T>
  auto starmap_async(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return promised<detail::Spread>(f, elements, options);
  }

  // f(first[i], others[i]...) for each i, as with the slices of one or several Arrays; what f
  // returns is dropped. Throws Error if the ranges are not of one length, and what map() throws.
  template <class F, std::ranges::random_access_range First,
            std::ranges::random_access_range... Others>
  void for_each(F&& f, First&& first, Others&&... others) {
    const auto all = detail::side_by_side(first, others...);
    static_cast<void>(mapped<detail::Spread>(f, all, {}).collect(detail::kNoDeadline));
  }

  // As map(), but elements are read from the range only a bounded number ahead of the results that
  // are asked for, four chunks a worker: the range may be endless. Chunks have chunk_size elements;
  // unless given, one at first, and up to 1,024 if they take little time. MapOptions::timeout
  // limits the wait for each result. An rvalue is kept. imap_results() gives outcomes, no errors.
  template <class F, std::ranges::input_range Range>
  auto imap(F&& f, Range&& range, const MapOptions& options = {}) {
    return lazily<false, true>(f, std::forward<Range>(range), options);
  }
  template <class F, class T>
  auto imap(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return lazily<false, true>(f, std::vector<T>(elements), options);
  }
  template <class F, std::ranges::input_range Range>
  auto imap_results(F&& f, Range&& range, const MapOptions& options = {}) {
    return lazily<true, true>(f, std::forward<Range>(range), options);
  }
  template <class F, class T>
  auto imap_results(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return lazily<true, true>(f, std::vector<T>(elements), options);
  }

  // The same, with the results of whatever chunk ends first; index() of imap_unordered_results()'
  // outcomes tells the place. What reading the range throws comes after all that was read before.
  template <class F, std::ranges::input_range Range>
  auto imap_unordered(F&& f, Range&& range, const MapOptions& options = {}) {
    return lazily<false, false>(f, std::forward<Range>(range), options);
  }
  template <class F, class T>
  auto imap_unordered(F&& f, std::initializer_list<T> elements, const MapOptions& options = {}) {
    return lazily<false, false>(f, std::vector<T>(elements), options);
  }
  template <class F, std::ranges::input_range Range>
  auto imap_unordered_results(F&& f, Range&& range, const MapOptions& options = {}) {
    return lazily<true, false>(f, std::forward<Range>(range), options);
  }
  template <class F, class T>
  auto imap_unordered_results(F&& f, std::initializer_list<T> elements,
                              const MapOptions& options = {}) {
    return lazily<true, false>(f, std::vector<T>(elements), options);
  }

  // No more tasks are taken; those submitted are run. Never blocks.
  void close() { core().close(); }
  // Ends the workers now. Tasks that have not ended get PoolClosed. Never blocks.
  void terminate() { core().terminate(); }
  // Until all processes of a closed or terminated pool have ended. Throws Error if it was neither.
  void join() { core().join_until(detail::kNoDeadline); }
  // The same; false if time ran out.
  [[nodiscard]] bool join_for(std::chrono::nanoseconds limit) {
    return core().join_until(detail::deadline_after(limit));
  }
  // Closes, gives the tasks `drain` to end, then sends the workers SIGTERM, after `term` SIGKILL.
  // True if every task ended by itself.
  bool shutdown(std::chrono::nanoseconds drain,
                std::chrono::nanoseconds term = std::chrono::seconds(2)) {
    return core().shutdown(detail::deadline_after(drain), term);
  }

  // From now on as many workers: more start at once, fewer when those that leave have ended what
  // they run. Up to the workers that the pool was made with, or 23 if that is more. Never blocks.
  // Throws Error for another number, PoolClosed.
  void resize(std::size_t workers) { core().resize(workers); }

  [[nodiscard]] PoolStats stats() const { return core().stats(); }

 protected:
  [[nodiscard]] detail::PoolCore& core() const { return *shared_core(); }

 private:
  [[nodiscard]] const std::shared_ptr<detail::PoolCore>& shared_core() const {
    return detail::require_pool(&core_);
  }

  static detail::DeadlineNs deadline_of(const MapOptions& options) {
    return options.timeout ? detail::deadline_after(*options.timeout) : detail::kNoDeadline;
  }

  // Empty: there was no room by then.
  template <class F, class... Args>
  auto admitted(detail::TaskSpec spec, const std::stop_token& stop, detail::DeadlineNs limit, F& f,
                Args&&... args) {
    using Call = detail::Call<std::decay_t<F>, Args...>;
    using Submitted = std::optional<Future<typename Call::Result>>;
    const std::shared_ptr<detail::PoolCore>& core = shared_core();
    const detail::Admission admission(*core, spec, stop, limit);
    if (!admission) return Submitted();
    const detail::TaskTicket task = Call::submit(*core, spec, f, std::forward<Args>(args)...);
    return Submitted(Future<typename Call::Result>(core, task));
  }
  template <class F, class... Args>
  auto admitted(const TaskOptions& options, detail::DeadlineNs limit, F& f, Args&&... args) {
    auto future =
        admitted(core().spec_of(options), options.stop, limit, f, std::forward<Args>(args)...);
    if (future && options.stop.stop_possible()) core().cancel_on(options.stop, future->task_);
    return future;
  }

  template <class How, class F, class Range>
  auto mapped(F& f, Range&& range, const MapOptions& options) {
    using Job = detail::MapJobOf<How, F, Range>;
    return detail::MapCall(Job(), shared_core(), f, range, options.chunk_size, options.progress);
  }

  template <class How, class F, class Range>
  auto promised(F& f, Range&& range, const MapOptions& options) {
    using Job = detail::MapJobOf<How, F, Range>;
    using R = typename Job::Result;
    const detail::DeadlineNs limit = deadline_of(options);
    return MapFuture<R>(limit, Job(), shared_core(), f, range, options.chunk_size);
  }

  template <bool as_results, bool ordered, class F, class Range>
  auto lazily(F& f, Range&& range, const MapOptions& options) {
    using View = std::views::all_t<Range>;
    using Job = detail::MapJobOf<detail::AsOne, F, View>;
    static_assert(as_results || !std::is_void_v<typename Job::Result>,
                  "brood: imap() of a function without a result: take imap_results() or map()");
    const detail::LazyOptions how{ordered, options.chunk_size, options.timeout};
    return LazyResults<detail::LazyMap<Job, View>, as_results>(
        {shared_core(), f, std::views::all(std::forward<Range>(range)), how});
  }

  void end() noexcept;

  std::shared_ptr<detail::PoolCore> core_;
};

}  // namespace brood
