// Runs a scene, a handful of actors on shared words, in every order and with every value that the
// memory model allows, or in as many as there is time for.
//
// How: a stateless search. Each execution is told by its choices (who goes on, who dies, which
// store a load reads); the next one changes the last choice that has an alternative. Orders that
// differ only in steps which do not touch each other are run once (sleep sets, Godefroid 1996).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include "schedule/atomic.hpp"
#include "schedule/memory.hpp"
#include "sys/futex.hpp"

namespace brood::schedule {

// One execution of the scene, given to the test's body, which runs anew for each: it sets up, adds
// actors, plays, and checks. Actors must not own heap memory across a shared operation: a dead one
// never goes on, and so never frees it.
class Scene {
 public:
  // Ends by itself, whatever the schedule.
  int actor(const char* name, std::function<void()> body);
  // The same, but at the end it may be left asleep.
  int server(const char* name, std::function<void()> body);
  // May be killed between any two of its steps; the kernel then marks `life`, if there is one.
  int mortal(const char* name, std::function<void()> body, sys::RobustWord* life = nullptr);

  // Both: may be killed, and may be left asleep.
  int mortal_server(const char* name, std::function<void()> body, sys::RobustWord* life = nullptr);

  // Runs the actors until nobody can go on. Somebody asleep who should not be is a failure.
  void play();

  // In an actor or in the check: fails the execution if `condition` is false.
  void require(bool condition, const char* what,
               std::source_location site = std::source_location::current());

  // In an actor: sleeps until `who` is dead or has ended; knows then all that it did.
  bool await_end(int who);
  [[nodiscard]] bool died(int who) const;

  // Punching a hole into a range of this file zeroes the memory at `base`.
  void map(int fd, std::byte* base);
  // A socket that datagrams sent to `name` arrive at: `full` is 1 while there is one in it, and who
  // sleeps on that word is woken.
  int mailbox(std::span<const char> name, sys::Atomic<std::uint32_t>& full);
};

// A plain variable of the scene, for what a protocol protects: two accesses that nothing orders,
// one of them a write, fail the execution.
template <class T>
class Data {
 public:
  T read(std::source_location site = std::source_location::current()) const {
    note(false, site);
    return value_;
  }
  void write(T value, std::source_location site = std::source_location::current()) {
    note(true, site);
    value_ = value;
  }

 private:
  void note(bool writes, const std::source_location& site) const;
  T value_{};
  mutable std::array<std::uint32_t, kMaxActors> reads_{};
  mutable std::uint32_t write_ = 0;
  mutable int writer_ = 0;
};

struct Limits {
  int deaths = 1;                // in one execution
  int old_reads = 2;             // of one word by one actor in a row
  int timeouts = 2;              // busy waits whose time runs out, in one execution
  bool reduce = true;            // leave out what equals another execution
  std::uint64_t seed = 0;        // not 0: choices by this seed, instead of all in turn
  std::uint64_t executions = 0;  // at most; 0: all there are
  double seconds = 60;           // at most
};

struct Result {
  std::uint64_t executions = 0;
  std::uint64_t redundant = 0;  // begun, and left as equal to one that was run
  std::uint64_t steps = 0;
  bool complete = false;  // nothing is left to try within the limits
  std::string failure;    // what went wrong and how it came to it; empty: nothing did
};

using Body = std::function<void(Scene&)>;
Result explore(const Limits& limits, const Body& body);

// ---- breaking a protocol on purpose

// What a mutation does to the operations of one place in the source.
enum class Damage : std::uint8_t {
  none,
  relax,  // its memory order becomes relaxed
  tear,   // a read-modify-write becomes a load and a store
  drop,   // its store does not happen
};
const char* name_of(Damage damage) noexcept;

// A place where a shared operation was executed.
struct Place {
  std::string path;
  unsigned line = 0;
  unsigned column = 0;
  bool ordered = false;  // with an order that can be relaxed
  bool reads = false;
  bool writes = false;
};
// All places seen since the last call of forget_places.
std::vector<Place> places();
void forget_places();
// From now on; Damage::none mends it.
void damage(const Place& place, Damage how);
// From now on nobody is woken by futex_wake.
void silence_wakes(bool on);

// ---- for Data

int current_actor();
Memory& memory();
void fail(const std::string& what, const std::source_location& site);

template <class T>
void Data<T>::note(bool writes, const std::source_location& site) const {
  const int self = current_actor();
  const Clock& known = memory().of(self).happened;
  bool raced = !known.knows(writer_, write_);
  for (int i = 0; i < kMaxActors && writes; ++i) {
    raced = raced || !known.knows(i, reads_[static_cast<std::size_t>(i)]);
  }
  const std::uint32_t now = memory().tick(self);
  if (writes) {
    write_ = now;
    writer_ = self;
  } else {
    reads_[static_cast<std::size_t>(self)] = now;
  }
  if (raced) fail("data race", site);
}

}  // namespace brood::schedule
