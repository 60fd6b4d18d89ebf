// Queues between processes.
//
//   brood::Queue<Job> jobs(100);                  // at most 100 in it
//   brood::Process worker(work, jobs);            // handles are values: pass them on
//   jobs.put({1, "first"});
//   ...
//   for (Job job : jobs) ...                      // until somebody calls jobs.close()
//
// Frames, tensors and the like need not be copied: Queue<Message<Header>> lends room in shared
// memory to write them into (loan, publish) and shows them where they lie (get_view). It comes with
// this header and is described in message_queue.hpp.
//
// What holds for all queues here:
//
//   Threads:   any, of any process. Items of one thread are got in the order in which it put them.
//   Blocking:  put while the queue is full, get while it is empty: without limit, or for the time
//              given; try_ forms never. A put has encoded its item before it waits. No process
//              waits at its end for others to empty a queue. An item that is just being put by
//              somebody who is stopped (SIGSTOP) is waited for by those who want later ones.
//   Ownership: copies of a handle name one queue, which lives as long as anybody in the family has
//              a handle of it, or a message contains one. The items belong to it.
//   Errors:    put: NotSendable, ArenaFull, what encoding throws: nothing has changed then, and a
//              moved argument is untouched if it was not put. get: DecodeError, TypeMismatch: the
//              item is gone. Both: Closed, Interrupted, FamilyBroken, StaleHandle.
//   Death:     an item whose put has returned survives the death of who put it. Who dies in a put
//              or a get loses that item at most; the queue goes on.
//
// Memory ordering: what was done before a put has happened before its item is got.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/queue_core.hpp"
#include "brood/detail/queue_format.hpp"
#include "brood/error.hpp"

namespace brood {

// What put does when a queue is full.
enum class OnFull { block, drop_oldest };

// How a queue waits: look for as long as has paid off lately, then sleep; never sleep; sleep at
// once.
enum class QueueWait { adaptive, spin, sleep };

struct QueueOptions {
  // How many items fit; 0: any number, as long as there is memory. The memory for so many (16 to
  // 128 bytes each, or 16 for items of changing size) is taken when the queue is made.
  std::size_t max_items = 0;
  // How many bytes of encoded items fit; 0: any number.
  std::size_t max_bytes = 0;
  OnFull on_full = OnFull::block;
  QueueWait wait = QueueWait::adaptive;
};

template <class T>
class Queue {
 public:
  explicit Queue(std::size_t maxsize = 0) : Queue(QueueOptions{.max_items = maxsize}) {}
  explicit Queue(const QueueOptions& options) : Queue(options, false) {}

  // ---- putting. `false`: there was no room in time.

  void put(const T& item) const { Format::put_or_throw(core(), item, detail::kNoDeadline); }
  void put(T&& item) const { Format::put_or_throw(core(), std::move(item), detail::kNoDeadline); }
  template <class Rep, class Period>
  bool put_for(const T& item, std::chrono::duration<Rep, Period> limit) const {
    return Format::put_or_throw(core(), item, detail::deadline_in(limit));
  }
  template <class Rep, class Period>
  bool put_for(T&& item, std::chrono::duration<Rep, Period> limit) const {
    return Format::put_or_throw(core(), std::move(item), detail::deadline_in(limit));
  }
  template <class Duration>
  bool put_until(const T& item,
                 std::chrono::time_point<std::chrono::steady_clock, Duration> end) const {
    return Format::put_or_throw(core(), item, detail::deadline_at(end));
  }
  bool try_put(const T& item) const { return Format::put_or_throw(core(), item, detail::kNoWait); }
  bool try_put(T&& item) const {
    return Format::put_or_throw(core(), std::move(item), detail::kNoWait);
  }

  // ---- getting. Nothing: no item came in time.

  T get() const { return *Format::get_or_throw(core(), detail::kNoDeadline); }
  template <class Rep, class Period>
  std::optional<T> get_for(std::chrono::duration<Rep, Period> limit) const {
    return Format::get_or_throw(core(), detail::deadline_in(limit));
  }
  template <class Duration>
  std::optional<T> get_until(
      std::chrono::time_point<std::chrono::steady_clock, Duration> end) const {
    return Format::get_or_throw(core(), detail::deadline_at(end));
  }
  std::optional<T> try_get() const { return Format::get_or_throw(core(), detail::kNoWait); }

  // Takes items until the queue is closed and none is left.
  class Iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    Iterator() = default;
    explicit Iterator(detail::QueueCore& core) : core_(&core) { ++*this; }
    T operator*() const { return std::move(*item_); }
    Iterator& operator++() {
      bool closed = false;
      item_ = Format::get(*core_, detail::kNoDeadline, closed);
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) noexcept {
      return !it.item_.has_value();
    }

   private:
    detail::QueueCore* core_ = nullptr;
    mutable std::optional<T> item_;
  };
  Iterator begin() const { return Iterator(core()); }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

  // ---- what it is like now. Others may change it at any time; what you did yourself counts.

  [[nodiscard]] std::size_t size() const { return core().size(); }
  [[nodiscard]] bool empty() const { return core().empty(); }
  [[nodiscard]] bool full() const { return core().full(); }

  // From now on nobody can put; what is in the queue can still be got, and then get and its kin
  // throw Closed, try_get too.
  // Closing twice is once.
  void close() const { core().close(); }
  [[nodiscard]] bool closed() const { return core().closed(); }

  // A descriptor for wait() and for your own event loop: readable while get would find an item, or
  // the queue is closed. Never read from it. It may be readable once too often, as after an item
  // that somebody else has got: use try_get. Throws SystemError.
  [[nodiscard]] int fileno() const { return core().fileno(); }
  [[nodiscard]] bool still_ready() const { return core().is_ready(); }  // for wait()

  // For sending the handle.
  static constexpr std::uint32_t kKind = detail::kQueueKind;
  static std::uint64_t object_type() noexcept { return detail::type_id<Queue<T>>(); }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const { return core().handle(); }
  explicit Queue(const detail::ObjectHandle& handle)
      : core_(detail::QueueCore::of(handle, element(false))) {}

 protected:
  using Format = detail::QueueFormat<T>;
  static detail::QueueElement element(bool counts_tasks) {
    static_assert(detail::require_queue_item<T>());
    return {object_type(), Format::framed, Format::cell_bytes, Format::value_bytes, counts_tasks};
  }
  Queue(const QueueOptions& options, bool counts_tasks)
      : core_(detail::QueueCore::make(element(counts_tasks), options)) {}
  Queue(const detail::ObjectHandle& handle, bool counts_tasks)
      : core_(detail::QueueCore::of(handle, element(counts_tasks))) {}

  [[nodiscard]] detail::QueueCore& core() const {
    if (core_ == nullptr) detail::throw_no_queue();
    return *core_;
  }

 private:
  std::shared_ptr<detail::QueueCore> core_;
};

// A queue whose items are tasks: each process that gets one says when it is done with it.
//
//   Threads:   as Queue; a task is its process's, not its thread's.
//   Blocking:  join, until all tasks that were put have been called done.
//   Ownership: as Queue. May be passed on as a Queue, too.
//   Errors:    task_done throws Error if this process has called it for all that it got.
//   Death:     a process that ends, or drops its last handle, with tasks that it has not called
//              done abandons them: join throws TaskAbandoned, once for all that were abandoned by
//              then.
template <class T>
class JoinableQueue : public Queue<T> {
 public:
  explicit JoinableQueue(std::size_t maxsize = 0)
      : JoinableQueue(QueueOptions{.max_items = maxsize}) {}
  explicit JoinableQueue(const QueueOptions& options) : Queue<T>(options, true) {}
  explicit JoinableQueue(const detail::ObjectHandle& handle) : Queue<T>(handle, true) {}

  void task_done() const { this->core().task_done(); }
  void join() const { this->core().join(detail::kNoDeadline); }
  // False: not in time.
  template <class Rep, class Period>
  bool join_for(std::chrono::duration<Rep, Period> limit) const {
    return this->core().join(detail::deadline_in(limit));
  }
};

// The fewest words: put, get, empty, close. As Queue in all respects.
template <class T>
class SimpleQueue : private Queue<T> {
 public:
  SimpleQueue() = default;
  explicit SimpleQueue(const detail::ObjectHandle& handle) : Queue<T>(handle) {}

  using Queue<T>::put;
  using Queue<T>::get;
  using Queue<T>::empty;
  using Queue<T>::close;
  using Queue<T>::closed;
  using Queue<T>::fileno;
  using Queue<T>::still_ready;

  using Queue<T>::kKind;
  using Queue<T>::object_type;
  using Queue<T>::object_handle;
};

namespace detail {
template <class T>
struct Codec<Queue<T>> : HandleCodec<Queue<T>> {};
template <class T>
struct Codec<JoinableQueue<T>> : HandleCodec<JoinableQueue<T>> {};
template <class T>
struct Codec<SimpleQueue<T>> : HandleCodec<SimpleQueue<T>> {};
}  // namespace detail

}  // namespace brood

#include "brood/message_queue.hpp"
