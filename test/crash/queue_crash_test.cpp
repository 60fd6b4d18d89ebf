// Producers and consumers of a queue are killed at random moments; the account has to be exact.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "brood/process.hpp"
#include "brood/queue.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMostItems = std::size_t{1} << 23U;  // of one producer

// What everyone writes down, where no death takes it along.
struct Book {
  struct Producer {
    std::atomic<std::uint32_t> begun;     // puts
    std::atomic<std::uint32_t> returned;  // puts
    std::array<std::atomic<std::uint8_t>, kMostItems> got;
  };
  std::atomic<bool> enough;
  std::atomic<int> wrong;  // torn, doubled, or out of order
  std::array<Producer, 2> producers;
};

class SharedBook {
 public:
  SharedBook()
      : memory_(mmap(nullptr, sizeof(Book), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~SharedBook() { munmap(memory_, sizeof(Book)); }
  SharedBook(const SharedBook&) = delete;
  SharedBook& operator=(const SharedBook&) = delete;
  Book* operator->() const { return static_cast<Book*>(memory_); }

 private:
  void* memory_;
};

std::uint64_t checksum(std::uint64_t who, std::uint64_t number) {
  return (who * 1'000'003 + number) * 0x9e3779b97f4a7c15U;
}

// An item of each kind, made from and read as (producer, number).
using Small = std::array<std::uint64_t, 3>;
Small make(const Small*, std::uint32_t who, std::uint32_t number) {
  return {who, number, checksum(who, number)};
}
using Text = std::vector<std::uint64_t>;
Text make(const Text*, std::uint32_t who, std::uint32_t number) {
  Text item(3 + number % 100, checksum(who, number));
  item[0] = who;
  item[1] = number;
  return item;
}
template <class Item>
bool is_whole(const Item& item) {
  if (item[0] > 1 || item[1] >= kMostItems) return false;
  for (std::size_t i = 2; i < item.size(); ++i) {
    if (item[i] != checksum(item[0], item[1])) return false;
  }
  return true;
}

template <class Q, class Item>
void produce(Q& queue, const SharedBook& book, std::uint32_t who) {
  Book::Producer& mine = book->producers[who];
  while (!book->enough.load(std::memory_order_relaxed)) {
    while (mine.begun.load() % 64 == 0 && queue.size() > 10'000 &&
           !book->enough.load(std::memory_order_relaxed)) {
      std::this_thread::sleep_for(100us);
    }
    // A number that was begun is never used again: its item may be in the queue.
    const std::uint32_t number = mine.begun.fetch_add(1);
    if (number >= kMostItems) return;
    queue.put(make(static_cast<Item*>(nullptr), who, number));
    mine.got[number].fetch_or(0x80);
    mine.returned.fetch_add(1);
  }
}

template <class Q, class Item>
void consume(Q& queue, const SharedBook& book) {
  std::array<std::int64_t, 2> last = {-1, -1};
  for (const Item item : queue) {
    if (!is_whole(item) || std::int64_t(item[1]) <= last[item[0] & 1U]) {
      book->wrong.fetch_add(1);
      continue;
    }
    last[item[0]] = static_cast<std::int64_t>(item[1]);
    if ((book->producers[item[0]].got[item[1]].fetch_or(1) & 1U) != 0) book->wrong.fetch_add(1);
  }
}

struct Tally {
  std::uint64_t got = 0;
  std::uint64_t lost = 0;       // put had returned, nobody got it
  std::uint64_t in_flight = 0;  // put had not returned, nobody got it
};
Tally tally(const SharedBook& book) {
  Tally result;
  for (const Book::Producer& producer : book->producers) {
    const std::uint32_t begun = std::min<std::uint32_t>(producer.begun, kMostItems);
    for (std::uint32_t i = 0; i < begun; ++i) {
      const std::uint8_t bits = producer.got[i];
      result.got += bits & 1U;
      result.lost += bits == 0x80;
      result.in_flight += bits == 0;
    }
  }
  return result;
}

template <class Item>
void kill_at_random(const QueueOptions& options, int kills, std::uint64_t seed) {
  SCOPED_TRACE("BROOD_SEED=" + std::to_string(seed));
  std::minstd_rand random(static_cast<unsigned>(seed % 2147483646 + 1));
  const Queue<int> keeps_the_family(1);
  const auto blocks = [] {
    return warden::ObjectSpace::join().objects().arena().stats().live_blocks;
  };
  const std::size_t before = blocks();
  std::uint64_t killed[2] = {0, 0};
  const SharedBook book;
  {
    Queue<Item> queue(options);
    const auto produce_one = [&](std::uint32_t who) {
      Process process(forked, [&, who] { produce<Queue<Item>, Item>(queue, book, who); });
      process.start();
      return process;
    };
    const auto consume_one = [&](std::uint32_t) {
      Process process(forked, [&] { consume<Queue<Item>, Item>(queue, book); });
      process.start();
      return process;
    };
    std::vector<Process> all;
    for (std::uint32_t i = 0; i < 2; ++i) all.push_back(produce_one(i));
    for (std::uint32_t i = 0; i < 2; ++i) all.push_back(consume_one(i));
    for (int i = 0; i < kills; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 400));
      const std::uint32_t victim = random() % 4;
      if (i % 16 == 0) stop_and_see(all[victim].pid());  // the others go on, or wait
      all[victim].kill();
      all[victim].join();
      ++killed[victim / 2];
      all[victim] = victim < 2 ? produce_one(victim) : consume_one(victim);
    }
    book->enough = true;
    for (std::size_t i = 0; i < 2; ++i) {
      ASSERT_TRUE(all[i].join_for(kHangGuard)) << "a producer hangs";
    }
    queue.close();
    for (std::size_t i = 2; i < 4; ++i) {
      ASSERT_TRUE(all[i].join_for(kHangGuard)) << "a consumer hangs";
      EXPECT_EQ(all[i].exit_code(), 0);
    }
    EXPECT_EQ(queue.size(), 0U);
  }
  const Tally result = tally(book);
  std::printf(
      "%llu items, %llu + %llu kills: %llu lost with consumers, %llu with producers\n",
      static_cast<unsigned long long>(result.got), static_cast<unsigned long long>(killed[0]),
      static_cast<unsigned long long>(killed[1]), static_cast<unsigned long long>(result.lost),
      static_cast<unsigned long long>(result.in_flight));
  EXPECT_EQ(book->wrong.load(), 0);
  EXPECT_GT(result.got, 0U);
  EXPECT_LE(result.lost + result.in_flight, killed[0] + killed[1]);
  EXPECT_LE(result.lost, killed[1]) << "only with a consumer";
  EXPECT_TRUE(wait_until([&] { return blocks() == before; })) << "memory is left";
}

int number_of_kills(int sample, int all) {
  const char* sweep = std::getenv("BROOD_SWEEP");
  return sweep != nullptr && std::string(sweep) == "full" ? all : sample;
}
std::uint64_t seed() {
  const char* given = std::getenv("BROOD_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : seed_of_the_day();
}

TEST(QueueCrashTest, SmallItemsOfABoundedQueue) {
  kill_at_random<Small>({.max_items = 8}, number_of_kills(150, 4000), seed());
}
TEST(QueueCrashTest, SmallItemsOfAQueueThatGrows) {
  kill_at_random<Small>({}, number_of_kills(100, 3000), seed() + 1);
}
TEST(QueueCrashTest, ItemsInFrames) {
  kill_at_random<Text>({.max_items = 8, .max_bytes = 4000}, number_of_kills(150, 3000), seed() + 2);
}

}  // namespace
}  // namespace brood::test
