// A worker overwrites the memory it shares with others (P7): that costs typed errors, or nothing,
// but never the host.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "brood/pool.hpp"
#include "support/host.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

// ---- in the worker

struct Extent {
  std::byte* begin;
  std::size_t bytes;
};

int pool_fd() {
  for (const std::string& file : open_files(getpid())) {
    if (file.find("memfd:brood:pool") != std::string::npos) return std::atoi(file.c_str());
  }
  return -1;
}

// What of the shared memory this process can write has pages behind it: the rest is a hole of many
// gibibytes.
std::vector<Extent> writable_shared_memory() {
  std::vector<Extent> extents;
  const int fd = pool_fd();
  std::istringstream maps(read_file("/proc/self/maps"));
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    unsigned long offset = 0;
    char access[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx", &begin, &end, access, &offset) != 4) continue;
    if (std::string(access) != "rw-s" || line.find("memfd:brood:pool") == std::string::npos) {
      continue;
    }
    const auto last = static_cast<off_t>(offset + (end - begin));
    for (off_t at = static_cast<off_t>(offset); at < last;) {
      const off_t data = lseek(fd, at, SEEK_DATA);
      if (data < 0 || data >= last) break;
      const off_t hole = std::min(lseek(fd, data, SEEK_HOLE), last);
      extents.push_back({reinterpret_cast<std::byte*>(begin) + (data - static_cast<off_t>(offset)),
                         static_cast<std::size_t>(hole - data)});
      at = hole;
    }
  }
  return extents;
}

// In the host's memory and so in nobody's: the mapping must exist, or the test tests nothing.
void require_some(const std::vector<Extent>& extents) {
  if (extents.empty()) throw std::runtime_error("the worker can write no shared memory");
}

void fill_with_noise(std::uint64_t seed) {
  const std::vector<Extent> extents = writable_shared_memory();
  require_some(extents);
  std::mt19937_64 random(seed);
  for (const Extent& extent : extents) {
    for (std::size_t at = 0; at + 8 <= extent.bytes; at += 8) {
      const std::uint64_t word = random();
      std::memcpy(extent.begin + at, &word, sizeof word);
    }
  }
}

// Some words only, changed so that they stay plausible more often.
void change_words(std::uint64_t seed) {
  const std::vector<Extent> extents = writable_shared_memory();
  require_some(extents);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20'000; ++i) {
    const Extent& extent = extents[random() % extents.size()];
    // The beginnings hold what describes the rest.
    const std::size_t reach =
        random() % 2 == 0 ? std::min<std::size_t>(extent.bytes, 16384) : extent.bytes;
    std::byte* place = extent.begin + random() % (reach / 8) * 8;
    std::uint64_t word = 0;
    std::memcpy(&word, place, sizeof word);
    if (word == 0 && random() % 4 != 0) continue;
    switch (random() % 5) {
      case 0:
        word ^= std::uint64_t{1} << random() % 64;
        break;
      case 1:
        word += random() % 3 - 1;
        break;
      case 2:
        word = random();
        break;
      case 3:
        word = ~std::uint64_t{0} >> random() % 64;
        break;
      default:
        word = (word & 0xffffffff) | random() << 32U;
    }
    std::memcpy(place, &word, sizeof word);
  }
}

// Ends as crashes end, or goes on as if nothing had happened.
int scribble(std::uint64_t seed, bool everything) {
  if (everything) {
    fill_with_noise(seed);
  } else {
    change_words(seed);
  }
  switch (seed % 5) {
    case 0:
      std::abort();
    case 1:
      kill(getpid(), SIGKILL);
      break;
    case 2:
      _exit(3);
    case 3:
      throw std::runtime_error("after scribbling");
    default:
      break;
  }
  return 1;
}

// ---- in the host

std::string echo(std::string text) { return text; }

// What an operation on the pool may end with. A value may even be wrong if only its own bytes were
// hit, and an exception may be one that never was: but it is an exception.
template <class Action>
void expect_typed(std::map<std::string, int>& tally, Action&& action) {
  try {
    action();
    ++tally["value"];
  } catch (const WorkerDied&) {
    ++tally["WorkerDied"];
  } catch (const BrokenPool&) {
    ++tally["BrokenPool"];
  } catch (const DecodeError&) {
    ++tally["DecodeError"];
  } catch (const Error& e) {
    ++tally[std::string("Error: ") + e.what()];
  } catch (const std::exception& e) {
    HOST_CHECK(remote_info(e) != nullptr);
    ++tally["exception of a task"];
  }
}

int be_scribbled_on(std::uint64_t seed, bool everything) {
  std::map<std::string, int> tally;
  {
    PoolOptions options;
    options.workers = 3;
    options.retries = seed % 3 == 0 ? 1 : 0;
    Pool pool(options);
    std::vector<Future<std::string>> futures;
    for (std::size_t i = 0; i < 20; ++i)
      futures.push_back(pool.submit(echo, std::string(i * 3000, 'a')));
    auto scribbler = pool.submit(scribble, seed, everything);
    for (std::size_t i = 0; i < 200; ++i)
      futures.push_back(pool.submit(echo, std::string(i * 100, 'b')));
    const std::vector<std::string> texts(300, std::string(500, 'm'));
    expect_typed(tally, [&] {
      HOST_CHECK(pool.map(echo, texts, {.chunk_size = 10}).size() == texts.size());
    });
    expect_typed(tally, [&] { scribbler.get(); });
    for (auto& future : futures) expect_typed(tally, [&] { future.get(); });
    for (int i = 0; i < 20; ++i) {
      expect_typed(tally, [&] { pool.apply(echo, std::string(200, 'c')); });
    }
    static_cast<void>(pool.stats());
  }
  Pool fresh(std::size_t{2});
  HOST_CHECK(fresh.apply(echo, "still here") == "still here");
  std::string line;
  for (const auto& [what, times] : tally) line += what + " x" + std::to_string(times) + ", ";
  say(line);
  return 0;
}

void run_seeds(bool everything) {
  const std::uint64_t seeds = 100;
  const char* given = std::getenv("BROOD_SCRIBBLE_SEED");
  const std::uint64_t first = given != nullptr ? std::strtoull(given, nullptr, 10) : 0;
  const std::uint64_t last = given != nullptr ? first + 1 : seeds;
  int unhappy = 0;
  for (std::uint64_t seed = first; seed < last && unhappy < 3; ++seed) {
    const HostRun run = run_host([&] { return be_scribbled_on(seed, everything); });
    EXPECT_EQ(run.end, "exit 0") << "BROOD_SCRIBBLE_SEED=" << seed << " " << run.out;
    if (run.end != "exit 0") ++unhappy;
    if (given != nullptr) std::printf("%s\n", run.out.c_str());
  }
}

TEST(ScribbleTest, NoiseInAllSharedMemoryCostsTypedErrorsOnly) { run_seeds(true); }

TEST(ScribbleTest, PlausibleChangesOfSomeWordsCostTypedErrorsOnly) { run_seeds(false); }

}  // namespace
}  // namespace brood::test
