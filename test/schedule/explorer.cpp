#include "schedule/explorer.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "schedule/search.hpp"
#include "sys/syscall.hpp"

namespace brood::schedule {

namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr std::size_t kMostSteps = 5000;  // in one execution: more is a loop without end
constexpr std::size_t kTraceLines = 70;
// Descriptors that no real file has.
constexpr int kAnySocket = 100'000;
constexpr int kFirstMailbox = kAnySocket + 1;
constexpr std::int64_t kLongTimeNs = 1'000'000'000;

// Ends an execution from the test's own side of it.
struct Stop {};

enum class State : std::uint8_t { none, ready, on_futex, on_store, on_end, ended, dead };

struct Actor {
  const char* name = "";
  std::function<void()> body;
  State state = State::none;
  bool may_sleep = false;
  bool mortal = false;
  sys::RobustWord* life = nullptr;
  Step next;
  std::array<const void*, 4> futexes{};  // that it sleeps on
  int woken_by = -1;                     // index into futexes
  bool doomed = false;                   // to die in its next turn
  std::uint64_t stores_seen = 0;         // when it last waited busily
  bool reads_newest = false;
  int awaited = 0;
  ucontext_t context{};
  std::byte* stack = nullptr;
};

struct Event {
  int actor;
  const char* what;
  const void* address;
  std::uint64_t bits;
  Site site;
};

// Past our own clock_gettime(), which tells the scene's time.
double wall_seconds() noexcept {
  timespec now{};
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

const char* short_name(const char* path) noexcept {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

class Engine {
 public:
  Engine(const Limits& limits, const Body& body)
      : limits_(limits), body_(body), search_(limits.seed, limits.reduce) {
    for (Actor& actor : actors_) {
      actor.stack = static_cast<std::byte*>(
          mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (actor.stack == MAP_FAILED) std::abort();
    }
  }
  ~Engine() {
    for (Actor& actor : actors_) munmap(actor.stack, kStackBytes);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Result run();

  // ---- the scene
  int add(const char* name, std::function<void()> body, bool may_sleep, bool mortal,
          sys::RobustWord* life);
  void play();
  void fail(const std::string& what, const Site& site);
  bool await_end(int who);
  [[nodiscard]] bool died(int who) const { return actors_[index(who)].state == State::dead; }
  void map(int fd, std::byte* base) {
    mapped_fd_ = fd;
    mapped_base_ = base;
  }

  // ---- what actors do
  std::uint64_t load(const void* address, std::size_t bytes, Order order, const Site& site);
  void store(void* address, std::size_t bytes, std::uint64_t bits, Order order, const Site& site);
  std::uint64_t change(void* address, std::size_t bytes, Change how, std::uint64_t operand,
                       Order order, const Site& site);
  bool cas(void* address, std::size_t bytes, std::uint64_t& expected, std::uint64_t desired,
           Order success, Order failure, const Site& site);
  long kernel(long nr, long a, long b, long c, long d, long e, long f);

  int mailbox(std::span<const char> name, sys::Atomic<std::uint32_t>& full) {
    mailboxes_.push_back({std::string(name.begin(), name.end()), &full});
    return kFirstMailbox + static_cast<int>(mailboxes_.size()) - 1;
  }

  [[nodiscard]] std::int64_t time_ns() const noexcept { return time_ns_; }

  Memory memory_;
  int current_ = 0;

 private:
  static std::size_t index(int actor) { return static_cast<std::size_t>(actor); }
  void execute();
  bool next_execution();

  // turns
  void before(const Step& step);
  void await_turn(const Step& step);
  void take(const Step& step);
  int decide();
  void leave_turn();
  [[nodiscard]] bool can_go(const Actor& actor) const;
  [[nodiscard]] bool may_die(const Actor& actor) const {
    return actor.mortal && (actor.doomed || deaths_ < limits_.deaths);
  }
  [[nodiscard]] static const void* end_word(const Actor& actor) {
    return actor.life != nullptr ? static_cast<const void*>(&actor.life->word) : &actor;
  }
  bool doom(Actor& actor);
  void die();
  void wake(const void* address, int count);
  static void enter();
  static void prepare(Actor& actor);
  long sleep_on(const void* const* words, const std::uint32_t* expected, std::size_t count);
  void punch(std::size_t offset, std::size_t bytes);
  long knock(const msghdr& message);
  long empty(const void* full);
  void write_word(const void* address, std::uint32_t bits, const char* what);

  // operations
  std::size_t how_many_readable(const Word& word, Order order);
  std::uint64_t pick(Word& word, Order order, std::uint64_t not_this, bool exclude);
  void note(const char* what, const void* address, std::uint64_t bits, const Site& site) {
    ++steps_;
    // What the test itself does before and after is in its source.
    if (playing_) trace_.push_back({current_, what, address, bits, site});
  }
  [[nodiscard]] std::string tell() const;

  Limits limits_;
  const Body& body_;
  Search search_;
  std::array<Actor, kMaxActors> actors_;
  int count_ = 1;  // of actors, the test included
  ucontext_t main_{};
  bool playing_ = false;
  bool launching_ = false;
  bool over_ = false;  // this execution ends now: failure or redundant
  bool redundant_ = false;
  int last_ = 0;  // who had the last turn
  int deaths_ = 0;
  std::uint64_t stores_ = 0;
  std::int64_t time_ns_ = 0;
  int time_passed_ = 0;
  int mapped_fd_ = -1;
  std::byte* mapped_base_ = nullptr;
  struct Mailbox {
    std::string name;
    const void* full;
  };
  std::vector<Mailbox> mailboxes_;

  std::uint64_t steps_ = 0;
  std::vector<Event> trace_;
  std::string failure_;
};

Engine* the_engine = nullptr;

// ---- mutations

struct Known {
  const char* file;
  unsigned line;
  unsigned column;
  Place place;
};
std::vector<Known> known_places;
std::size_t damaged_place = SIZE_MAX;
Damage the_damage = Damage::none;
bool wakes_are_silent = false;

// The damage to be done at this place.
Damage look_up(const Site& site, bool ordered, bool reads, bool writes) {
  std::size_t i = 0;
  while (i < known_places.size() &&
         !(known_places[i].line == site.line() && known_places[i].column == site.column() &&
           (known_places[i].file == site.file_name() ||
            std::strcmp(known_places[i].file, site.file_name()) == 0))) {
    ++i;
  }
  if (i == known_places.size()) {
    known_places.push_back(
        {site.file_name(),
         site.line(),
         site.column(),
         {site.file_name(), site.line(), site.column(), ordered, reads, writes}});
  }
  Place& place = known_places[i].place;
  place.ordered = place.ordered || ordered;
  place.reads = place.reads || reads;
  place.writes = place.writes || writes;
  return i == damaged_place ? the_damage : Damage::none;
}

// ---- executions

bool Engine::next_execution() {
  std::array<Step, kMaxActors> next;
  ActorSet left = 0;
  for (int i = 1; i < count_; ++i) {
    const Actor& actor = actors_[index(i)];
    next[index(i)] = actor.next;
    const bool acts = actor.state == State::ready || actor.state == State::on_store ||
                      actor.state == State::on_end || actor.doomed;
    if (acts && actor.state != State::dead) left |= only(i);
  }
  const bool more = search_.end_execution(left, next);
  if (!search_.deterministic()) {
    std::fprintf(stderr, "schedule: the scene is not deterministic\n%s\n", tell().c_str());
    std::abort();
  }
  return more;
}

void Engine::execute() {
  memory_.clear();
  trace_.clear();
  search_.begin_execution();
  count_ = 1;
  over_ = redundant_ = playing_ = false;
  current_ = last_ = 0;
  deaths_ = 0;
  stores_ = 0;
  time_ns_ = kLongTimeNs;
  time_passed_ = 0;
  mapped_fd_ = -1;
  mailboxes_.clear();
  actors_[0].name = "test";
  Scene scene;
  try {
    body_(scene);
  } catch (const Stop&) {
  }
}

Result Engine::run() {
  Result result;
  const double end = wall_seconds() + limits_.seconds;
  const sys::KernelFn real_kernel = sys::replace_kernel(
      [](long nr, long a, long b, long c, long d, long e, long f) noexcept -> long {
        return the_engine->kernel(nr, a, b, c, d, e, f);
      });
  for (;;) {
    execute();
    ++(redundant_ ? result.redundant : result.executions);
    if (!failure_.empty()) break;
    if (!next_execution()) {
      result.complete = true;
      break;
    }
    if (limits_.executions != 0 && result.executions >= limits_.executions) break;
    if ((result.executions + result.redundant) % 64 == 0 && wall_seconds() > end) break;
  }
  sys::replace_kernel(real_kernel);
  result.steps = steps_;
  result.failure = failure_;
  return result;
}

// ---- turns

int Engine::add(const char* name, std::function<void()> body, bool may_sleep, bool mortal,
                sys::RobustWord* life) {
  if (count_ == kMaxActors) std::abort();
  Actor& actor = actors_[index(count_)];
  actor.name = name;
  actor.body = std::move(body);
  actor.state = State::ready;
  actor.may_sleep = may_sleep;
  actor.mortal = mortal;
  actor.life = life;
  actor.next = {};
  actor.woken_by = -1;
  actor.doomed = false;
  actor.stores_seen = 0;
  actor.reads_newest = false;
  return count_++;
}

void Engine::enter() {
  Engine& self = *the_engine;
  Actor& actor = self.actors_[index(self.current_)];
  actor.body();
  self.before({.address = end_word(actor), .writes = true});
  actor.state = State::ended;
  ++self.stores_;
  self.leave_turn();
}

// Apart, since getcontext() may return twice as far as the compiler knows.
[[gnu::noinline]] void Engine::prepare(Actor& actor) {
  getcontext(&actor.context);
  actor.context.uc_stack.ss_sp = actor.stack;
  actor.context.uc_stack.ss_size = kStackBytes;
  actor.context.uc_link = nullptr;
  makecontext(&actor.context, enter, 0);
}

void Engine::play() {
  playing_ = true;
  // Up to its first shared step, an actor touches nobody.
  launching_ = true;
  for (int i = 1; i < count_; ++i) {
    memory_.of(i) = memory_.of(0);
    prepare(actors_[index(i)]);
    current_ = i;
    swapcontext(&main_, &actors_[index(i)].context);
    if (over_) break;
  }
  launching_ = false;
  if (!over_) {
    current_ = 0;
    const int next = decide();
    if (next > 0) {
      current_ = next;
      swapcontext(&main_, &actors_[index(next)].context);
    }
  }
  current_ = 0;
  playing_ = false;
  if (over_) throw Stop{};
  for (int i = 1; i < count_; ++i) {
    const Actor& actor = actors_[index(i)];
    memory_.of(0).happened.join(memory_.of(i).happened);
    memory_.of(0).visible.join(memory_.of(i).happened);
    const bool rests = actor.state == State::ended || actor.state == State::dead;
    if (!rests && !actor.may_sleep) {
      fail(std::string(actor.name) + " sleeps for ever", Site::current());
      throw Stop{};
    }
  }
}

bool Engine::can_go(const Actor& actor) const {
  switch (actor.state) {
    case State::ready:
      return true;
    case State::on_futex:
      return actor.doomed;
    case State::on_store:
      return actor.stores_seen != stores_ || actor.doomed;
    case State::on_end: {
      const State other = actors_[index(actor.awaited)].state;
      return other == State::dead || other == State::ended || actor.doomed;
    }
    default:
      return false;
  }
}

// Who goes on: an actor; 0: nobody can, or the execution is over.
int Engine::decide() {
  ActorSet ready = 0;
  for (int i = 1; i < count_; ++i) {
    if (can_go(actors_[index(i)])) ready |= only(i);
  }
  if (ready == 0) return 0;
  const int next = search_.turn(ready, last_);
  if (next < 0) {
    redundant_ = over_ = true;
    return 0;
  }
  last_ = next;
  return next;
}

// Gives the turn to whoever is to have it; returns when it is ours again.
void Engine::leave_turn() {
  const int self = current_;
  ucontext_t* from = &actors_[index(self)].context;
  if (launching_) {
    swapcontext(from, &main_);
    return;
  }
  if (trace_.size() >= kMostSteps) fail("runs on without end", Site::current());
  const int next = decide();
  if (next == self) return;
  if (next == 0) {
    swapcontext(from, &main_);
    return;
  }
  current_ = next;
  swapcontext(from, &actors_[index(next)].context);
}

// Announces a step, and returns when it may be taken; or never, since the actor dies instead.
void Engine::await_turn(const Step& step) {
  Actor& actor = actors_[index(current_)];
  actor.next = step;
  if (may_die(actor)) {
    actor.next.may_die = true;
    actor.next.marked = end_word(actor);
  }
  leave_turn();
  actor.state = State::ready;
  if (doom(actor)) die();
}

void Engine::take(const Step& step) {
  std::array<Step, kMaxActors> next;
  for (int i = 1; i < count_; ++i) next[index(i)] = actors_[index(i)].next;
  Step taken = step;
  taken.may_die = actors_[index(current_)].next.may_die;
  search_.take(current_, taken, next);
}

void Engine::before(const Step& step) {
  if (!playing_ || current_ == 0) return;
  if (step.writes) actors_[index(current_)].reads_newest = false;
  await_turn(step);
  take(step);
}

// Whether it is to die now rather than take its next step.
bool Engine::doom(Actor& actor) {
  if (actor.doomed) return true;
  if (!may_die(actor) || !search_.chance(16)) return false;
  ++deaths_;
  return actor.doomed = true;
}

// Ends the actor whose turn it is; the kernel marks its life word.
void Engine::die() {
  Actor& actor = actors_[index(current_)];
  take({.address = end_word(actor), .writes = true, .dies = true});
  actor.state = State::dead;
  ++stores_;
  note("is killed", nullptr, 0, Site::current());
  if (actor.life != nullptr) {
    Word& word = memory_.word(&actor.life->word, sizeof(std::uint32_t));
    const std::uint64_t bits =
        (word.stores.back().bits & sys::kFutexWaiters) | sys::kFutexOwnerDied;
    memory_.write(word, sizeof(std::uint32_t), bits, current_, Order::acq_rel, true);
    wake(&actor.life->word, 1);
  }
  leave_turn();
}

void Engine::wake(const void* address, int count) {
  for (int i = 1; i < count_ && count > 0; ++i) {
    Actor& actor = actors_[index(i)];
    if (actor.state != State::on_futex) continue;
    for (std::size_t w = 0; w < actor.futexes.size(); ++w) {
      if (actor.futexes[w] != address) continue;
      actor.woken_by = static_cast<int>(w);
      actor.state = State::ready;
      search_.order(current_, i);
      --count;
      break;
    }
  }
}

bool Engine::await_end(int who) {
  Actor& actor = actors_[index(current_)];
  actor.awaited = who;
  actor.state = State::on_end;
  const Step step{.address = end_word(actors_[index(who)])};
  await_turn(step);
  take(step);
  memory_.of(current_).happened.join(memory_.of(who).happened);
  memory_.of(current_).visible.join(memory_.of(who).happened);
  return died(who);
}

// ---- operations

// Of the newest stores.
std::size_t Engine::how_many_readable(const Word& word, Order order) {
  const bool free = playing_ && current_ != 0 && !actors_[index(current_)].reads_newest &&
                    word.old_reads[index(current_)] < limits_.old_reads;
  return free ? memory_.readable(word, current_, order) : 1;
}

// The bits that a load reads; with `exclude`, none that equal `not_this`.
std::uint64_t Engine::pick(Word& word, Order order, std::uint64_t not_this, bool exclude) {
  std::uint8_t& old_reads = word.old_reads[index(current_)];
  const std::size_t readable = how_many_readable(word, order);
  std::array<std::size_t, 16> ways;
  std::uint32_t count = 0;
  for (std::size_t back = 0; back < readable && count < ways.size(); ++back) {
    const Store& store = word.stores[word.stores.size() - 1 - back];
    if (!exclude || store.bits != not_this) ways[count++] = back;
  }
  // By seed, old values are the exception, as they are in life.
  const bool newest = limits_.seed != 0 && !search_.chance(4);
  const std::size_t back = ways[newest ? 0 : search_.way(count)];
  old_reads = back == 0 ? std::uint8_t{0} : static_cast<std::uint8_t>(old_reads + 1);
  return memory_.read(word, back, current_, order);
}

Order weakened(Order order, Damage damage) {
  return damage == Damage::relax ? Order::relaxed : order;
}

std::uint64_t Engine::load(const void* address, std::size_t bytes, Order order, const Site& site) {
  order = weakened(order, look_up(site, order != Order::relaxed, true, false));
  before({.address = address, .sc = order == Order::seq_cst});
  const std::uint64_t bits = pick(memory_.word(address, bytes), order, 0, false);
  note("loads", address, bits, site);
  return bits;
}

void Engine::store(void* address, std::size_t bytes, std::uint64_t bits, Order order,
                   const Site& site) {
  const Damage damage = look_up(site, order != Order::relaxed, false, true);
  order = weakened(order, damage);
  before({.address = address, .writes = true, .sc = order == Order::seq_cst});
  if (damage == Damage::drop) return;
  ++stores_;
  memory_.write(memory_.word(address, bytes), bytes, bits, current_, order, false);
  note("stores", address, bits, site);
}

std::uint64_t changed(std::uint64_t bits, Change how, std::uint64_t operand) {
  switch (how) {
    case Change::exchange:
      return operand;
    case Change::add:
      return bits + operand;
    case Change::subtract:
      return bits - operand;
    case Change::bit_or:
      return bits | operand;
    case Change::bit_and:
      return bits & operand;
  }
  return bits;
}

std::uint64_t cut(std::uint64_t bits, std::size_t bytes) {
  return bytes == 8 ? bits : bits & ((std::uint64_t{1} << (bytes * 8)) - 1);
}

std::uint64_t Engine::change(void* address, std::size_t bytes, Change how, std::uint64_t operand,
                             Order order, const Site& site) {
  const Damage damage = look_up(site, order != Order::relaxed, true, true);
  order = weakened(order, damage);
  const bool sc = order == Order::seq_cst;
  before({.address = address, .writes = true, .sc = sc});
  Word& word = memory_.word(address, bytes);
  const std::uint64_t old = memory_.read(word, 0, current_, order);
  if (damage == Damage::tear) {
    note("reads (torn)", address, old, site);
    before({.address = address, .writes = true, .sc = sc});
  }
  if (damage == Damage::drop) return old;
  const std::uint64_t bits = cut(changed(old, how, operand), bytes);
  ++stores_;
  memory_.write(memory_.word(address, bytes), bytes, bits, current_, order, damage != Damage::tear);
  note("changes to", address, bits, site);
  return old;
}

bool Engine::cas(void* address, std::size_t bytes, std::uint64_t& expected, std::uint64_t desired,
                 Order success, Order failure, const Site& site) {
  const Damage damage = look_up(site, success != Order::relaxed, true, true);
  success = weakened(success, damage);
  failure = weakened(failure, damage);
  const bool sc = success == Order::seq_cst;
  before({.address = address, .writes = true, .sc = sc});
  Word& word = memory_.word(address, bytes);
  // It may fail by an old value; it can only succeed on the newest.
  std::uint64_t others = 0;
  const std::size_t readable = how_many_readable(word, failure);
  for (std::size_t back = 1; back < readable; ++back) {
    others += word.stores[word.stores.size() - 1 - back].bits != expected ? 1U : 0U;
  }
  const bool may_succeed = word.stores.back().bits == expected;
  const bool succeeds = may_succeed && (others == 0 || !search_.chance(4));
  if (!succeeds) {
    expected = pick(word, failure, expected, true);
    note("finds, to swap, ", address, expected, site);
    return false;
  }
  memory_.read(word, 0, current_, success);
  word.old_reads[index(current_)] = 0;
  if (damage == Damage::tear) {
    note("reads (torn)", address, expected, site);
    before({.address = address, .writes = true, .sc = sc});
  }
  if (damage == Damage::drop) return true;
  ++stores_;
  memory_.write(memory_.word(address, bytes), bytes, desired, current_, success,
                damage != Damage::tear);
  note("swaps to", address, desired, site);
  return true;
}

// ---- the kernel

long Engine::sleep_on(const void* const* words, const std::uint32_t* expected, std::size_t count) {
  Actor& actor = actors_[index(current_)];
  if (count > actor.futexes.size()) std::abort();
  before({.address = words[0], .writes = true, .waits_for_all = count > 1});
  for (std::size_t i = 0; i < count; ++i) {
    // The kernel compares with what is there, under a lock that wakers take too.
    std::uint32_t now = 0;
    std::memcpy(&now, words[i], sizeof now);
    if (now != expected[i]) return -EAGAIN;
  }
  note("sleeps on", words[0], expected[0], Site::current());
  actor.futexes = {};
  for (std::size_t i = 0; i < count; ++i) actor.futexes[i] = words[i];
  // If it is to die in its sleep, it has a turn for that.
  doom(actor);
  actor.state = State::on_futex;
  await_turn({});
  take({});
  note("awakes", actor.futexes[static_cast<std::size_t>(actor.woken_by)], 0, Site::current());
  return actor.woken_by;
}

void Engine::punch(std::size_t offset, std::size_t bytes) {
  memory_.for_each_in(mapped_base_ + offset, mapped_base_ + offset + bytes, [&](Word& word) {
    if (word.stores.back().bits != 0) {
      memory_.write(word, 4, 0, current_, Order::acq_rel, false);
    }
  });
  std::memset(mapped_base_ + offset, 0, bytes);
}

// As locks of the kernel order it.
void Engine::write_word(const void* address, std::uint32_t bits, const char* what) {
  before({.address = address, .writes = true});
  Word& word = memory_.word(address, sizeof bits);
  memory_.read(word, 0, current_, Order::acq_rel);
  ++stores_;
  memory_.write(word, sizeof bits, bits, current_, Order::acq_rel, true);
  note(what, address, bits, Site::current());
}

long Engine::knock(const msghdr& message) {
  const auto* to = static_cast<const sockaddr_un*>(message.msg_name);
  const std::string name(to->sun_path + 1,
                         message.msg_namelen - offsetof(sockaddr_un, sun_path) - 1);
  for (const Mailbox& box : mailboxes_) {
    if (box.name != name) continue;
    write_word(box.full, 1, "knocks at");
    if (!wakes_are_silent) wake(box.full, sys::kWakeAll);
    return 0;
  }
  return -ECONNREFUSED;
}

long Engine::empty(const void* full) {
  std::uint32_t now = 0;
  std::memcpy(&now, full, sizeof now);
  if (now == 0) return -EAGAIN;
  write_word(full, 0, "empties");
  return 0;
}

long Engine::kernel(long nr, long a, long b, long c, long d, long e, long f) {
  const bool acts = playing_ && current_ != 0;
  if (nr == SYS_futex && (b & FUTEX_CMD_MASK) == FUTEX_WAKE) {
    const auto* address = reinterpret_cast<const void*>(a);
    before({.address = address, .writes = true});
    note("wakes", address, 0, Site::current());
    if (!wakes_are_silent) wake(address, static_cast<int>(c));
    return 0;
  }
  if (nr == SYS_futex && acts) {
    const void* const words[] = {reinterpret_cast<const void*>(a)};
    const std::uint32_t expected[] = {static_cast<std::uint32_t>(c)};
    const long result = sleep_on(words, expected, 1);
    return result > 0 ? 0 : result;
  }
  if (nr == SYS_futex_waitv && acts) {
    const auto* list = reinterpret_cast<const futex_waitv*>(a);
    std::array<const void*, 4> words{};
    std::array<std::uint32_t, 4> expected{};
    const auto count = static_cast<std::size_t>(b);
    if (count > words.size()) std::abort();
    for (std::size_t i = 0; i < count; ++i) {
      words[i] = reinterpret_cast<const void*>(list[i].uaddr);
      expected[i] = static_cast<std::uint32_t>(list[i].val);
    }
    return sleep_on(words.data(), expected.data(), count);
  }
  if (nr == SYS_sched_getaffinity) {
    *reinterpret_cast<unsigned char*>(c) = 3;  // two processors, here
    return 1;
  }
  if (nr == SYS_sched_yield && acts) {
    // A busy wait: either there is something new to see, or the time for it is over.
    if (time_passed_ < limits_.timeouts && search_.chance(4)) {
      ++time_passed_;
      time_ns_ += kLongTimeNs;
      return 0;
    }
    Actor& actor = actors_[index(current_)];
    actor.state = State::on_store;
    await_turn({.waits_for_all = true});
    take({.waits_for_all = true});
    actor.stores_seen = stores_;
    // Old values do not stay for ever.
    actor.reads_newest = true;
    return 0;
  }
  if (nr == SYS_socket) return kAnySocket;
  if (nr == SYS_close && a == kAnySocket) return 0;
  if (nr == SYS_sendmsg && a == kAnySocket) return knock(*reinterpret_cast<const msghdr*>(b));
  if (nr == SYS_recvmsg && a >= kFirstMailbox) {
    return empty(mailboxes_.at(static_cast<std::size_t>(a - kFirstMailbox)).full);
  }
  if (nr == SYS_fcntl && a == mapped_fd_) return F_SEAL_SHRINK | F_SEAL_GROW;
  if (nr == SYS_fallocate && a == mapped_fd_) {
    if ((b & FALLOC_FL_PUNCH_HOLE) != 0) {
      punch(static_cast<std::size_t>(c), static_cast<std::size_t>(d));
    }
    return 0;
  }
  return sys::kernel(nr, a, b, c, d, e, f);
}

// ---- telling

void Engine::fail(const std::string& what, const Site& site) {
  if (failure_.empty()) {
    failure_ = what + " (" + short_name(site.file_name()) + ":" + std::to_string(site.line()) +
               ")\n" + tell();
  }
  over_ = true;
  if (playing_ && current_ != 0) {
    swapcontext(&actors_[index(current_)].context, &main_);
  }
}

std::string Engine::tell() const {
  std::string text;
  std::vector<const void*> names;
  const std::size_t from = trace_.size() > kTraceLines ? trace_.size() - kTraceLines : 0;
  for (std::size_t i = 0; i < trace_.size(); ++i) {
    const Event& event = trace_[i];
    std::size_t name = 0;
    while (name < names.size() && names[name] != event.address) ++name;
    if (name == names.size()) names.push_back(event.address);
    if (i < from) continue;
    std::array<char, 200> line;
    std::snprintf(line.data(), line.size(), "  %-12s %-14s w%-3zu %#18" PRIx64 "  %s:%u\n",
                  actors_[index(event.actor)].name, event.what, name, event.bits,
                  short_name(event.site.file_name()), event.site.line());
    text += line.data();
  }
  return text;
}

}  // namespace

// ---- what tests call

Result explore(const Limits& limits, const Body& body) {
  const auto engine = std::make_unique<Engine>(limits, body);
  the_engine = engine.get();
  Result result = engine->run();
  the_engine = nullptr;
  return result;
}

int Scene::actor(const char* name, std::function<void()> body) {
  return the_engine->add(name, std::move(body), false, false, nullptr);
}
int Scene::server(const char* name, std::function<void()> body) {
  return the_engine->add(name, std::move(body), true, false, nullptr);
}
int Scene::mortal(const char* name, std::function<void()> body, sys::RobustWord* life) {
  return the_engine->add(name, std::move(body), false, true, life);
}
int Scene::mortal_server(const char* name, std::function<void()> body, sys::RobustWord* life) {
  return the_engine->add(name, std::move(body), true, true, life);
}
void Scene::play() { the_engine->play(); }
void Scene::require(bool condition, const char* what, std::source_location site) {
  if (!condition) {
    the_engine->fail(what, site);
    throw Stop{};
  }
}
bool Scene::await_end(int who) { return the_engine->await_end(who); }
bool Scene::died(int who) const { return the_engine->died(who); }
void Scene::map(int fd, std::byte* base) { the_engine->map(fd, base); }
int Scene::mailbox(std::span<const char> name, sys::Atomic<std::uint32_t>& full) {
  return the_engine->mailbox(name, full);
}

int current_actor() { return the_engine->current_; }
Memory& memory() { return the_engine->memory_; }
void fail(const std::string& what, const std::source_location& site) {
  the_engine->fail(what, site);
  throw Stop{};
}

const char* name_of(Damage damage) noexcept {
  constexpr const char* kNames[] = {"nothing", "relaxed", "torn", "dropped"};
  return kNames[static_cast<std::size_t>(damage)];
}

std::vector<Place> places() {
  std::vector<Place> result;
  for (const Known& known : known_places) result.push_back(known.place);
  return result;
}
void forget_places() { known_places.clear(); }

void damage(const Place& place, Damage how) {
  the_damage = how;
  damaged_place = SIZE_MAX;
  for (std::size_t i = 0; i < known_places.size(); ++i) {
    const Place& known = known_places[i].place;
    if (known.path == place.path && known.line == place.line && known.column == place.column) {
      damaged_place = i;
    }
  }
}
void silence_wakes(bool on) { wakes_are_silent = on; }

// ---- the clock, which stands still unless a busy wait lets the time pass

std::int64_t scene_time_ns() { return the_engine == nullptr ? -1 : the_engine->time_ns(); }

// ---- what the atomics call

namespace {
// Outside of an execution a word is an ordinary one.
std::uint64_t plain(const void* word, std::size_t bytes) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, word, bytes);
  return bits;
}
}  // namespace

std::uint64_t load_word(const void* word, std::size_t bytes, Order order, const Site& site) {
  if (the_engine == nullptr) return plain(word, bytes);
  return the_engine->load(word, bytes, order, site);
}

void store_word(void* word, std::size_t bytes, std::uint64_t bits, Order order, const Site& site) {
  if (the_engine == nullptr) {
    std::memcpy(word, &bits, bytes);
    return;
  }
  the_engine->store(word, bytes, bits, order, site);
}

std::uint64_t change_word(void* word, std::size_t bytes, Change how, std::uint64_t operand,
                          Order order, const Site& site) {
  if (the_engine == nullptr) {
    const std::uint64_t old = plain(word, bytes);
    const std::uint64_t bits = cut(changed(old, how, operand), bytes);
    std::memcpy(word, &bits, bytes);
    return old;
  }
  return the_engine->change(word, bytes, how, operand, order, site);
}

bool compare_and_swap(void* word, std::size_t bytes, std::uint64_t& expected, std::uint64_t desired,
                      Order success, Order failure, const Site& site) {
  if (the_engine == nullptr) {
    const std::uint64_t old = plain(word, bytes);
    if (old == expected) {
      std::memcpy(word, &desired, bytes);
      return true;
    }
    expected = old;
    return false;
  }
  return the_engine->cas(word, bytes, expected, desired, success, failure, site);
}

}  // namespace brood::schedule

// In libc's place: sys::now_ns() must give the same in each run of the same schedule.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const std::int64_t ns = brood::schedule::scene_time_ns();
  if (ns < 0 || clock != CLOCK_MONOTONIC) {
    return static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  }
  *time = {ns / brood::schedule::kLongTimeNs, ns % brood::schedule::kLongTimeNs};
  return 0;
}
