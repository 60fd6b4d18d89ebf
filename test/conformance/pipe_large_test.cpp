// Messages of several GiB: no size on their way is cut to 32 bits.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>

#include "brood/brood.hpp"
#include "support/every_instruction.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

constexpr std::size_t kGiB = std::size_t{1} << 30;

std::size_t available_memory() {
  std::ifstream in("/proc/meminfo");
  std::string name;
  std::size_t kib = 0;
  while (in >> name >> kib) {
    if (name == "MemAvailable:") return kib * 1024;
    in.ignore(64, '\n');
  }
  return 0;
}

// Memory that costs nothing where nobody writes.
class Room {
 public:
  explicit Room(std::size_t bytes)
      : bytes_(bytes),
        memory_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Room() { munmap(memory_, bytes_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  [[nodiscard]] std::span<std::byte> bytes() {
    return {static_cast<std::byte*>(memory_), memory_ == MAP_FAILED ? 0 : bytes_};
  }

 private:
  std::size_t bytes_;
  void* memory_;
};

// Where sizes and offsets of 31, 32 or fewer bits would go wrong, and at the ends.
template <class Visit>
void visit_marks(std::span<std::byte> bytes, Visit&& visit) {
  const std::array places = {std::size_t{0}, kGiB,     2 * kGiB - 8,    2 * kGiB,
                             4 * kGiB - 8,   4 * kGiB, bytes.size() - 8};
  for (const std::size_t at : places) {
    if (at + 8 <= bytes.size()) visit(bytes.data() + at, at ^ 0x5eed5eed5eed5eedU);
  }
}

ExitCode receive(Connection pipe, std::size_t size) {
  Room room(size);
  if (pipe.recv_bytes_into(room.bytes()) != size) return {1};
  bool right = true;
  visit_marks(room.bytes(), [&](const std::byte* at, std::uint64_t mark) {
    right = right && std::memcmp(at, &mark, sizeof mark) == 0;
  });
  return {right && pipe.recv<int>() == 7 ? 0 : 2};
}

void pass_message(std::size_t size) {
  if (kSanitized) GTEST_SKIP() << "every byte would cost the tools several";
  // The message, the receiver's copy of it, and some for everybody else.
  if (available_memory() < 2 * size + 2 * kGiB) GTEST_SKIP() << "too little memory is available";
  Room room(size);
  ASSERT_EQ(room.bytes().size(), size);
  visit_marks(room.bytes(),
              [](std::byte* at, std::uint64_t mark) { std::memcpy(at, &mark, sizeof mark); });
  auto [ours, theirs] = Pipe();
  Process receiver(receive, std::move(theirs), size);
  receiver.start();
  try {
    ours.send_bytes(room.bytes());
  } catch (const ArenaFull& e) {
    ours.close();
    receiver.kill();
    receiver.join();
    GTEST_SKIP() << "the limit on shared memory is lower: " << e.what();
  }
  ours.send(7);
  ASSERT_TRUE(receiver.join_for(kHangGuard));
  EXPECT_EQ(receiver.exit_code(), 0);
}

TEST(PipeLargeTest, AMessageOfMoreThan2GiB) { pass_message(kGiB / 2 * 5 + 5); }
TEST(PipeLargeTest, AMessageOfMoreThan4GiB) {
  if (!EveryInstruction::full()) GTEST_SKIP() << "takes long: left to BROOD_SWEEP=full";
  pass_message(4 * kGiB + 4101);
}

}  // namespace
}  // namespace brood::test
