// Waiting for several tasks of several pools (brood/detail/completion.hpp).
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "brood/detail/completion.hpp"
#include "brood/error.hpp"
#include "start/look_time.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/epoll.hpp"
#include "sys/event_fd.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"
#include "sys/identity.hpp"
#include "sys/syscall.hpp"

namespace brood::detail {

namespace {

// After so long nothing of what was told is trusted; the next time after twice as long.
constexpr std::int64_t kFirstDoubtNs = 1'000'000'000;

class Collector final : public CompletionCore, private CompletionSink {
 public:
  ~Collector() override {
    if (!is_mine()) {
      event_.release();
      static_cast<void>(set_.release());
      return;
    }
    for (std::uint32_t slot = 0; slot < entries_.size(); ++slot) {
      const Entry& entry = entries_[slot];
      if (entry.state == State::waiting) {
        sources_[entry.source].source->unwatch(entry.task, *this, slot);
      }
    }
  }

  void add(const std::shared_ptr<PoolCore>& core, TaskTicket task, std::uint64_t tag) override {
    require_mine();
    CompletionSource& source = core->completions();
    std::optional<std::uint32_t> made = make_entry(core.get(), task, tag);
    // Unless it ended and was dropped meanwhile.
    while (!made) {
      add_source(core, source);
      made = make_entry(core.get(), task, tag);
    }
    const std::uint32_t slot = *made;
    try {
      source.watch(task, *this, slot);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      --sources_[entries_[slot].source].waiting;
      free_entry(slot);
      throw;
    }
  }

  [[nodiscard]] bool empty() const noexcept override {
    const std::lock_guard lock(mutex_);
    return used_ == 0;
  }

  std::optional<std::uint64_t> next_until(DeadlineNs deadline, bool idle) override {
    require_mine();
    if (deadline != 0) start::serve_signals();
    if (const auto tag = take_now()) return tag;
    const std::int64_t start = sys::now_ns();
    auto tag = deadline > start ? take_until(start, deadline, idle) : std::nullopt;
    if (deadline > start) look_time_.learn(sys::now_ns() - start);
    if (!tag && empty()) forget_pools();
    if (!tag) settle_descriptor();
    return tag;
  }

  void forget_pools() noexcept override {
    const auto all = cores();
    for (const auto& [core, source] : *all) drop(core.get());
  }

  void wake() noexcept override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    change();
  }

  int fileno() override {
    require_mine();
    const std::lock_guard settling(settling_);
    if (event_) return set_->fd();
    auto set = std::make_unique<sys::ReadableSet>();
    sys::require(set->open(), "opening a queue's descriptor");
    sys::Fd event(static_cast<int>(sys::require(sys::open_event(), "opening an event")));
    sys::require(set->add(event.get(), 0), "watching an event");
    const auto all = cores();
    for (const auto& [core, source] : *all) {
      const CompletionSource::Descriptors found = source->descriptors();
      const std::lock_guard lock(mutex_);
      if (Source* known = find(core.get())) list(*known, found, *set);
    }
    {
      const std::lock_guard lock(mutex_);
      if (done_first_ != kNone || woken_) sys::set_event(event.get());
      event_ = std::move(event);
      set_ = std::move(set);
    }
    arm_all();
    return set_->fd();
  }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  enum class State : std::uint8_t { free, waiting, ended };
  struct Entry {
    std::uint64_t tag = 0;
    TaskTicket task;
    std::uint32_t source = 0;
    std::uint32_t next = kNone;  // among the free, or the ended
    State state = State::free;
  };
  struct Source {
    std::shared_ptr<PoolCore> core;  // null: the place is free
    CompletionSource* source = nullptr;
    std::size_t waiting = 0;
    CompletionSource::Descriptors listed;
  };
  // What a round of looking works on while others add.
  using Cores = std::vector<std::pair<std::shared_ptr<PoolCore>, CompletionSource*>>;

  [[nodiscard]] bool is_mine() const noexcept { return token_ == sys::process_token(); }
  void require_mine() const {
    if (!is_mine()) throw Error("brood: this queue belongs to the process that made it");
  }

  // ---- entries and sources; under the lock unless they say otherwise

  // nullptr asks for a free place.
  Source* find(const PoolCore* core) noexcept {
    const auto place =
        std::ranges::find(sources_, core, [](const Source& source) { return source.core.get(); });
    return place == sources_.end() ? nullptr : &*place;
  }

  static void list(Source& source, const CompletionSource::Descriptors& found,
                   sys::ReadableSet& set) {
    if (found.door >= 0) sys::require(set.add(found.door, 0), "watching a pool");
    if (found.end >= 0) sys::require(set.add(found.end, 0), "watching a pool");
    source.listed = found;
  }

  // Not under the lock. `settling_` is: a descriptor is opened for all sources or for this one.
  void add_source(const std::shared_ptr<PoolCore>& core, CompletionSource& source) {
    const std::lock_guard settling(settling_);
    const bool has_descriptor = set_ != nullptr;
    const auto found = has_descriptor ? source.descriptors() : CompletionSource::Descriptors{};
    {
      const std::lock_guard lock(mutex_);
      if (find(core.get()) != nullptr) return;
      auto cores = std::make_shared<Cores>(*cores_);
      cores->emplace_back(core, &source);
      if (find(nullptr) == nullptr) sources_.emplace_back();
      Source& place = *find(nullptr);
      if (has_descriptor) list(place, found, *set_);
      place.core = core;
      place.source = &source;
      cores_ = std::move(cores);
      // Who sleeps has to listen to it, too.
      change();
    }
    if (has_descriptor) source.arm();
  }

  // Empty: the core is not among the sources.
  std::optional<std::uint32_t> make_entry(const PoolCore* core, TaskTicket task,
                                          std::uint64_t tag) {
    const std::lock_guard lock(mutex_);
    Source* const source = find(core);
    if (source == nullptr) return std::nullopt;
    if (free_ == kNone) {
      entries_.emplace_back();
      free_ = static_cast<std::uint32_t>(entries_.size() - 1);
      entries_[free_].next = kNone;
    }
    const std::uint32_t slot = free_;
    free_ = entries_[slot].next;
    entries_[slot] = {tag, task, static_cast<std::uint32_t>(source - sources_.data()), kNone,
                      State::waiting};
    ++source->waiting;
    ++used_;
    return slot;
  }

  void free_entry(std::uint32_t slot) noexcept {
    entries_[slot].state = State::free;
    entries_[slot].next = free_;
    free_ = slot;
    --used_;
  }

  void ended(std::uint32_t slot) noexcept override {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[slot];
    if (entry.state != State::waiting) return;
    entry.state = State::ended;
    entry.next = kNone;
    (done_first_ == kNone ? done_first_ : entries_[done_last_].next) = slot;
    done_last_ = slot;
    --sources_[entry.source].waiting;
    has_done_.store(true, std::memory_order_relaxed);
    change();
  }

  // There is something to see.
  void change() noexcept {
    if (event_ && (done_first_ != kNone || woken_)) sys::set_event(event_.get());
    changes_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) {
      sys::futex_wake(&changes_, sys::kWakeAll);
    }
  }

  // ---- taking

  std::optional<std::uint64_t> take() noexcept {
    bool last = false;
    std::uint64_t tag = 0;
    {
      const std::lock_guard lock(mutex_);
      if (done_first_ == kNone) return std::nullopt;
      const std::uint32_t slot = done_first_;
      tag = entries_[slot].tag;
      done_first_ = entries_[slot].next;
      free_entry(slot);
      last = done_first_ == kNone;
      if (last) has_done_.store(false, std::memory_order_relaxed);
      // Others may wait for what does not come.
      if (used_ == 0) change();
    }
    if (last) settle_descriptor();
    return tag;
  }

  std::optional<std::uint64_t> take_now() {
    if (const auto tag = take()) return tag;
    collect_all();
    return take();
  }

  bool is_woken(bool idle) noexcept {
    const std::lock_guard lock(mutex_);
    return std::exchange(woken_, false) || (used_ == 0 && !idle);
  }

  [[nodiscard]] std::shared_ptr<const Cores> cores() const noexcept {
    const std::lock_guard lock(mutex_);
    return cores_;
  }

  void collect_all() noexcept {
    const auto all = cores();
    for (const auto& [core, source] : *all) {
      if (source->collect()) drop(core.get());
    }
  }

  // Unless something of it is waited for.
  void drop(const PoolCore* core) noexcept {
    std::shared_ptr<PoolCore> dropped;  // freed without the lock
    std::shared_ptr<const Cores> before;
    const std::lock_guard lock(mutex_);
    Source* const place = find(core);
    if (place == nullptr || place->waiting != 0) return;
    try {
      auto rest = std::make_shared<Cores>(*cores_);
      std::erase_if(*rest, [&](const auto& entry) { return entry.first.get() == core; });
      before = std::exchange(cores_, std::move(rest));
    } catch (const std::bad_alloc&) {
      return;
    }
    if (set_ != nullptr && place->listed.door >= 0) set_->remove(place->listed.door);
    if (set_ != nullptr && place->listed.end >= 0) set_->remove(place->listed.end);
    dropped = std::move(place->core);
    *place = Source{};
  }

  std::optional<std::uint64_t> take_until(std::int64_t start, DeadlineNs deadline, bool idle) {
    if (is_woken(idle)) return std::nullopt;
    if (look_until(std::min(deadline, start + look_ns()))) {
      if (const auto tag = take_now()) return tag;
    }
    std::int64_t patience_ns = kFirstDoubtNs;
    std::int64_t doubt_ns = start + patience_ns;
    for (;;) {
      Sleep sleep(*this);
      if (const auto tag = take_now()) return tag;
      if (is_woken(idle)) return std::nullopt;
      const std::int64_t now = sys::now_ns();
      if (now >= deadline) return std::nullopt;
      if (now >= doubt_ns) {
        patience_ns *= 2;
        doubt_ns = now + patience_ns;
        for (const auto& [core, source] : *sleep.cores) source->look_at_all(true);
        if (const auto tag = take_now()) return tag;
      }
      start::futex_wait_any_serving_signals(sleep.words, std::min(deadline, now + sys::kLookUpNs));
    }
  }

  // Counted before it looks, so that who changes something wakes it.
  struct Sleep {
    explicit Sleep(Collector& collector) : of(collector) {
      of.sleepers_.fetch_add(1, std::memory_order_seq_cst);
      const std::uint32_t changes = of.changes_.load(std::memory_order_seq_cst);
      cores = of.cores();
      words.reserve(cores->size() + 2);
      words.push_back({&of.changes_, changes});
      for (const auto& [core, source] : *cores) {
        const CompletionSource::Bell bell = source->listen();
        if (bell.word == nullptr) continue;
        words.push_back({static_cast<const sys::FutexWord*>(bell.word), bell.value});
      }
      words.emplace_back();
    }
    ~Sleep() { of.sleepers_.fetch_sub(1, std::memory_order_seq_cst); }
    Sleep(const Sleep&) = delete;
    Sleep& operator=(const Sleep&) = delete;

    Collector& of;
    std::shared_ptr<const Cores> cores;
    std::vector<sys::FutexWaiter> words;
  };

  [[nodiscard]] std::int64_t look_ns() const noexcept {
    std::int64_t most = look_time_.ns();
    const auto all = cores();
    for (const auto& [core, source] : *all) most = std::min(most, source->most_look_ns());
    return most;
  }

  [[nodiscard]] bool look_until(std::int64_t end) const noexcept {
    const auto all = cores();
    do {
      for (int i = 0; i < 32; ++i) {
        if (has_done_.load(std::memory_order_relaxed)) return true;
        for (const auto& [core, source] : *all) {
          if (source->has_news()) return true;
        }
        sys::cpu_relax();
      }
    } while (sys::now_ns() < end);
    return false;
  }

  // ---- the descriptor

  // If there is nothing to take: it is not readable until there is.
  void settle_descriptor() noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (!event_) [[likely]]
        return;
      if (done_first_ != kNone || woken_) return;
      sys::clear_event(event_.get());
    }
    arm_all();
  }

  void arm_all() noexcept {
    const auto all = cores();
    for (const auto& [core, source] : *all) source->arm();
    collect_all();
  }

  const std::uint64_t token_ = sys::process_token();
  start::LookTime look_time_;
  sys::FutexWord changes_{0};
  sys::FutexWord sleepers_{0};
  std::atomic<bool> has_done_{false};

  std::mutex settling_;
  mutable std::mutex mutex_;  // guards what follows; taken after those of the sources
  std::shared_ptr<const Cores> cores_ = std::make_shared<const Cores>();
  std::vector<Source> sources_;
  std::vector<Entry> entries_;
  std::size_t used_ = 0;
  std::uint32_t free_ = kNone;
  std::uint32_t done_first_ = kNone;
  std::uint32_t done_last_ = kNone;
  bool woken_ = false;
  sys::Fd event_;
  std::unique_ptr<sys::ReadableSet> set_;
};

}  // namespace

std::unique_ptr<CompletionCore> CompletionCore::make() { return std::make_unique<Collector>(); }

bool wait_for_flag(const std::uint32_t& word, DeadlineNs deadline) {
  const std::atomic_ref flag(const_cast<std::uint32_t&>(word));
  start::serve_signals();
  while (flag.load(std::memory_order_acquire) == 0) {
    if (sys::now_ns() >= deadline) return false;
    start::futex_wait_serving_signals(&word, 0, deadline);
  }
  return true;
}

void raise_flag(std::uint32_t& word) noexcept {
  std::atomic_ref(word).store(1, std::memory_order_release);
  sys::futex_wake(&word, sys::kWakeAll);
}

}  // namespace brood::detail
