// Whoever runs into the limit on shared memory is told which option raises it.
#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "brood/brood.hpp"
#include "support/host.hpp"

namespace brood::test {
namespace {

template <class Action>
void expect_told(Action&& action) {
  std::string told;
  try {
    action();
  } catch (const ArenaFull& e) {
    told = e.what();
  }
  if (told.find("InitOptions::arena_limit_bytes") == std::string::npos) say("told: " + told);
}

TEST(ArenaLimitTest, ArenaFullNamesTheOptionThatRaisesTheLimit) {
  const HostRun run = run_host([] {
    init({.arena_limit_bytes = std::size_t{8} << 20});
    const std::string large(std::size_t{16} << 20, 'x');
    auto [ours, theirs] = Pipe();
    Queue<std::string> queue;
    Pool pool(1);
    expect_told([&] { ours.send(large); });
    expect_told([&] { queue.put(large); });
    expect_told([&] { Array<double> array(large.size()); });
    expect_told([&] { pool.apply([](const std::string& s) { return s.size(); }, large); });
    expect_told(
        [&] { pool.apply([](std::size_t n) { return std::string(n, 'x'); }, large.size()); });
    ours.send(1);
    HOST_CHECK(theirs.recv<int>() == 1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

}  // namespace
}  // namespace brood::test
