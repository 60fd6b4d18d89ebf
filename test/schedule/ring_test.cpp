// The ring of task names: one writer, readers that share a hint, growth, and a new epoch.
#include "pool/protocol/ring.hpp"

#include <array>

#include "schedule/report.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {
namespace {

using Offer = pool::RingReader::Offer;

constexpr std::uint32_t kMostLog = 3;

struct Ring {
  shm::RingHeader header{};
  std::array<sys::Atomic<std::uint64_t>, 2U << kMostLog> cells{};
  sys::Atomic<std::uint64_t> hint{0};
  sys::Atomic<std::uint32_t> epoch{0};
  std::array<sys::Atomic<std::uint32_t>, 8> taken{};  // the entries' own words
  std::array<Data<int>, 8> tasks;

  pool::RingReader reader() { return {header, cells.data(), kMostLog, hint, epoch}; }
};

// Writes `count` entries, growing before those that would not fit.
void write(Ring& ring, std::uint32_t log, std::uint32_t count, std::uint32_t grow_before) {
  pool::RingWriter writer(ring.header, ring.cells.data());
  writer.start(log);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i == grow_before) writer.grow();
    ring.tasks[i].write(static_cast<int>(i));
    writer.push({i, 1});
  }
}

// Takes entries until all `count` are taken by somebody.
void read(Scene& scene, Ring& ring, std::uint32_t count) {
  pool::RingReader reader = ring.reader();
  std::uint32_t total = 0;
  const auto claim = [&](shm::RingEntry entry) {
    scene.require(entry.index < count && entry.generation == 1, "an entry that nobody wrote");
    if (ring.taken[entry.index].exchange(1, std::memory_order_relaxed) != 0) return Offer::gone;
    scene.require(ring.tasks[entry.index].read() == static_cast<int>(entry.index), "another task");
    return Offer::taken;
  };
  while (total < count) {
    while (reader.take(claim)) {
    }
    total = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      total += ring.taken[i].load(std::memory_order_relaxed);
    }
    if (total < count) sys::yield();
  }
}

Body scene_of(std::uint32_t log, std::uint32_t count, std::uint32_t grow_before, int readers,
              bool doubted) {
  return [=](Scene& scene) {
    Ring ring;
    scene.actor("writer", [&] { write(ring, log, count, grow_before); });
    for (int i = 0; i < readers; ++i) {
      scene.actor("reader", [&] { read(scene, ring, count); });
    }
    if (doubted) {
      scene.actor("doubter", [&] {
        ring.hint.store(shm::HeadHint{count, 0}.pack(), std::memory_order_relaxed);  // a scribble
        ring.epoch.fetch_add(1, std::memory_order_release);
      });
    }
    scene.play();
  };
}

TEST(RingScheduleTest, EachEntryIsTakenOnce) {
  expect_right_in_all("two entries, one reader", scene_of(1, 2, 9, 1, false), {.old_reads = 1});
  expect_right_by_seed("three entries, two readers", scene_of(2, 3, 9, 2, false), 1);
}
TEST(RingScheduleTest, GrowingLosesNothing) {
  expect_right_in_all("one entry, growth, one more, one reader", scene_of(0, 2, 1, 1, false),
                      {.old_reads = 1});
  expect_right_by_seed("two entries, growth, two more, two readers", scene_of(1, 4, 2, 2, false),
                       3);
}
TEST(RingScheduleTest, AnOverwrittenHintIsForgottenInTheNextEpoch) {
  expect_right_by_seed("three entries, two readers, a doubter", scene_of(2, 3, 9, 2, true), 1);
}

TEST(RingScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "ring", {"ring.hpp"},
      {scene_of(2, 3, 9, 2, false), scene_of(1, 4, 2, 2, false), scene_of(2, 3, 9, 2, true)},
      {{"ring.hpp", "head_hint_->store(", Damage::drop, "it only saves time"}}, 20'000);
}

}  // namespace
}  // namespace brood::schedule
