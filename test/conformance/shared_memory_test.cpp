// Memory with names (CPython: _TestSharedMemory, TestSharedMemoryNames).
#include "brood/shared_memory.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/codec.hpp"
#include "brood/pool.hpp"
#include "brood/process.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/named_memory.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/named_memory.hpp"
#include "sys/process.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::test {
namespace {

// Removes a name at the end of a test that fails.
class Name {
 public:
  Name() : text_(unique_name()) {}
  ~Name() { std::filesystem::remove(shm_path(text_)); }
  Name(const Name&) = delete;
  Name& operator=(const Name&) = delete;
  [[nodiscard]] const std::string& get() const { return text_; }

 private:
  std::string text_;
};

std::byte byte_of(int value) { return static_cast<std::byte>(value); }

// ---- one process

TEST(SharedMemoryTest, WhatIsWrittenThroughOneHandleIsReadThroughAnother) {
  const Name name;
  SharedMemory made = SharedMemory::create(name.get(), 512);
  EXPECT_EQ(made.size(), 512U);
  EXPECT_EQ(made.span().size(), 512U);
  EXPECT_EQ(made.name(), name.get());
  EXPECT_TRUE(std::ranges::all_of(made.span(), [](std::byte b) { return b == byte_of(0); }));
  made.span()[0] = byte_of(42);
  SharedMemory also = SharedMemory::attach(name.get());
  EXPECT_EQ(also.size(), 512U);
  EXPECT_EQ(also.span()[0], byte_of(42));
  EXPECT_NE(also.span().data(), made.span().data());
  also.span()[511] = byte_of(22);
  EXPECT_EQ(made.span()[511], byte_of(22));
  also.close();
  made.unlink();
  EXPECT_EQ(made.span()[511], byte_of(22)) << "the memory stays where it is mapped";
}

TEST(SharedMemoryTest, ItsFileIsPrivateAndAsLongAsItAndTakenAtOnce) {
  SharedMemory made = SharedMemory::create(unique_name(), 100'000);
  const std::string path = shm_path(made.name());
  EXPECT_EQ(std::filesystem::file_size(path), 100'000U);
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_GE(blocks_of(path), 100'000 / 512);
  made.unlink();
}

TEST(SharedMemoryTest, ATakenNameIsATypedErrorAndChangesNothing) {
  SharedMemory made = SharedMemory::create(unique_name(), 100);
  made.span()[7] = byte_of(7);
  EXPECT_EQ(error_number_of([&] { SharedMemory::create(made.name(), 5000); }), EEXIST);
  EXPECT_EQ(made.span()[7], byte_of(7));
  EXPECT_EQ(SharedMemory::attach(made.name()).size(), 100U);
  made.unlink();
  SharedMemory again = SharedMemory::create(made.name(), 200);
  EXPECT_EQ(SharedMemory::attach(made.name()).size(), 200U);
  again.unlink();
}

TEST(SharedMemoryTest, WhatIsNotThereIsATypedError) {
  EXPECT_EQ(error_number_of([] { SharedMemory::attach(unique_name()); }), ENOENT);
  SharedMemory made = SharedMemory::create(unique_name(), 100);
  made.unlink();
  EXPECT_EQ(error_number_of([&] { made.unlink(); }), ENOENT);
  EXPECT_EQ(error_number_of([&] { SharedMemory::attach(made.name()); }), ENOENT);
  made.close();
  EXPECT_EQ(error_number_of([&] { made.unlink(); }), ENOENT);
}

TEST(SharedMemoryTest, UnlinkSparesANameThatIsAnothersByNow) {
  SharedMemory first = SharedMemory::create(unique_name(), 100);
  SharedMemory also_first = SharedMemory::attach(first.name());
  first.unlink();
  SharedMemory second = SharedMemory::create(first.name(), 100);
  EXPECT_EQ(error_number_of([&] { also_first.unlink(); }), ENOENT);
  EXPECT_TRUE(has_name(second.name()));
  SharedMemory::attach(second.name()).unlink();  // whoever has it may
  EXPECT_FALSE(has_name(second.name()));
}

TEST(SharedMemoryTest, AClosedHandleKnowsItsNameAndNothingElse) {
  SharedMemory made = SharedMemory::create(unique_name(), 100);
  SharedMemory copy = made;
  EXPECT_EQ(copy.span().data(), made.span().data());
  made.close();
  made.close();
  thrown_by<Closed>([&] { static_cast<void>(made.span()); });
  EXPECT_EQ(made.size(), 100U);
  EXPECT_EQ(copy.span().size(), 100U) << "copies hold it";
  made.unlink();
}

TEST(SharedMemoryTest, NamesThatCannotBeAreRefused) {
  using std::string_literals::operator""s;
  const std::vector<std::string> wrong = {"brood\0test"s,       "\0"s, "a/b", "/a", ".", "..",
                                          std::string(256, 'n')};
  const std::set<std::string> before = names_in_shm();
  for (const std::string& name : wrong) {
    thrown_by<Error>([&] { SharedMemory::create(name, 10); });
    thrown_by<Error>([&] { SharedMemory::attach(name); });
  }
  thrown_by<Error>([] { SharedMemory::attach(""); });
  EXPECT_EQ(names_in_shm(), before);
}

TEST(SharedMemoryTest, NamesOfAllOtherCharactersAndOfTheFullLengthWork) {
  const std::string stem = unique_name();
  for (const std::string& name : {stem + ":1", stem + "\n2", "-" + stem + " *?$;'\"\\",
                                  stem + "\xff\xfe", stem + std::string(255 - stem.size(), 'n')}) {
    SharedMemory made = SharedMemory::create(name, 10);
    EXPECT_EQ(made.name(), name);
    EXPECT_EQ(SharedMemory::attach(name).size(), 10U);
    made.unlink();
  }
}

TEST(SharedMemoryTest, SizesThatCannotBeAreRefusedBeforeAnythingIsMade) {
  const std::string name = unique_name();
  thrown_by<Error>([&] { SharedMemory::create(name, 0); });
  thrown_by<Error>([&] { SharedMemory::create(name, SIZE_MAX); });
  thrown_by<ArenaFull>([&] { SharedMemory::create(name, std::size_t{1} << 60); });
  EXPECT_FALSE(has_name(name));
}

TEST(SharedMemoryTest, ALimitOnFilesIsATypedErrorAndNoSignal) {
  const HostRun run = run_host([] {
    SharedMemory::create(unique_name(), 50'000).unlink();
    const rlimit limit{100'000, 100'000};
    HOST_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    HOST_CHECK(error_number_of([] { SharedMemory::create(unique_name(), 200'000); }) == EFBIG);
    SharedMemory::create(unique_name(), 50'000).unlink();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST(SharedMemoryTest, AutomaticNamesAreOfPythonsFormAndNotTaken) {
  std::vector<SharedMemory> made;
  std::set<std::string> names;
  for (int i = 0; i < 200; ++i) {
    made.push_back(SharedMemory::create("", 10));
    const std::string& name = made.back().name();
    EXPECT_TRUE(is_automatic(name)) << name;
    EXPECT_TRUE(names.insert(name).second);
    EXPECT_TRUE(has_name(name));
  }
  for (SharedMemory& memory : made) memory.unlink();
}

TEST(SharedMemoryTest, WhatIsNoMemoryIsRefused) {
  const Name name;
  std::ofstream(shm_path(name.get())).close();
  thrown_by<Error>([&] { SharedMemory::attach(name.get()); });
  std::filesystem::remove(shm_path(name.get()));
  std::filesystem::create_directory(shm_path(name.get()));
  thrown_by<Error>([&] { SharedMemory::attach(name.get()); });
  std::filesystem::remove(shm_path(name.get()));
  ASSERT_EQ(mkfifo(shm_path(name.get()).c_str(), 0600), 0);
  thrown_by<Error>([&] { SharedMemory::attach(name.get()); });
  std::filesystem::remove(shm_path(name.get()));
  std::filesystem::create_symlink("/dev/zero", shm_path(name.get()));
  thrown_by<Error>([&] { SharedMemory::attach(name.get()); });
}

// ---- several processes

class SharedMemoryProcessTest : public StartMethodTest {
 protected:
  static ProcessOptions options() { return {.start = GetParam()}; }
};
BROOD_FOR_EACH_START_METHOD(SharedMemoryProcessTest);

ExitCode add_one(const std::string& name) {
  const SharedMemory memory = SharedMemory::attach(name);
  memory.span()[0] = byte_of(std::to_integer<int>(memory.span()[0]) + 1);
  return {std::to_integer<int>(memory.span()[1])};
}
ExitCode add_two(SharedMemory memory) {  // NOLINT(performance-unnecessary-value-param)
  memory.span()[0] = byte_of(std::to_integer<int>(memory.span()[0]) + 2);
  return {static_cast<int>(memory.size())};
}
SharedMemory make_filled(int value) {
  SharedMemory made = SharedMemory::create("", 64);
  std::ranges::fill(made.span(), byte_of(value));
  return made;
}
int first_of(const SharedMemory& memory) { return std::to_integer<int>(memory.span()[0]); }

TEST_P(SharedMemoryProcessTest, ProcessesShareItByNameAndByHandle) {
  SharedMemory memory = SharedMemory::create(unique_name(), 100);
  memory.span()[1] = byte_of(9);
  Process by_name(options(), add_one, memory.name());
  by_name.start();
  by_name.join();
  EXPECT_EQ(by_name.exit_code(), 9);
  Process by_handle(options(), add_two, memory);
  by_handle.start();
  by_handle.join();
  EXPECT_EQ(by_handle.exit_code(), 100);
  EXPECT_EQ(memory.span()[0], byte_of(3));
  memory.unlink();
}

TEST_P(SharedMemoryProcessTest, TasksTakeAndReturnItAndItOutlivesTheirWorkers) {
  PoolOptions pool_options;
  pool_options.workers = 2;
  pool_options.start = GetParam();
  std::optional<Pool> pool(pool_options);
  SharedMemory made = pool->apply(make_filled, 5);
  EXPECT_EQ(first_of(made), 5);
  made.span()[0] = byte_of(6);
  EXPECT_EQ(pool->apply(first_of, made), 6);
  SharedMemory second = pool->apply(make_filled, 1);
  EXPECT_EQ(pool->apply(add_two, second).value, 64);
  EXPECT_EQ(first_of(second), 3);
  made.unlink();
  thrown_by<StaleHandle>([&] { pool->apply(first_of, made); });
  pool.reset();
  EXPECT_EQ(first_of(SharedMemory::attach(second.name())), 3);
  second.unlink();
}

TEST_P(SharedMemoryProcessTest, ANameOfAProcessThatDiedStaysAsLongAsTheProgram) {
  const std::string name = unique_name();
  const HostRun run = run_host([&] {
    Process creator(
        options(),
        [](const std::string& wanted) {
          SharedMemory::create(wanted, 10).span()[0] = byte_of(3);
          ::kill(getpid(), SIGKILL);
        },
        name);
    creator.start();
    creator.join();
    HOST_CHECK(creator.exit_code() == -SIGKILL);
    HOST_CHECK(first_of(SharedMemory::attach(name)) == 3);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_TRUE(is_gone_soon(name));
}

TEST_P(SharedMemoryProcessTest, AProgramThatEndsLeavesNoName) {
  for (const int signal : {0, SIGTERM, SIGKILL}) {
    const std::string name = unique_name();
    Host host([&] {
      const SharedMemory chosen = SharedMemory::create(name, 10);
      const SharedMemory automatic = SharedMemory::create("", 10);
      say(automatic.name());
      if (signal != 0) pause();
      return 0;
    });
    const std::string automatic = host.read_line();
    EXPECT_TRUE(is_automatic(automatic)) << automatic;
    if (signal != 0) {
      EXPECT_TRUE(has_name(name));
      host.send(signal);
    }
    static_cast<void>(host.wait());
    EXPECT_TRUE(is_gone_soon(name)) << "signal " << signal;
    EXPECT_TRUE(is_gone_soon(automatic)) << "signal " << signal;
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond));
  }
}

TEST_P(SharedMemoryProcessTest, AProcessThatOutlivesItsProgramKeepsTheNames) {
  const std::string name = unique_name();
  const TempFolder folder;
  const std::string gate = folder.path("gate");
  Host host([&] {
    const SharedMemory memory = SharedMemory::create(name, 10);
    Process other(
        options(),
        [](const std::string& path) {
          say("here");
          wait_until([&] { return std::filesystem::exists(path); });
        },
        gate);
    other.start();
    pause();
    return 0;
  });
  EXPECT_EQ(host.read_line(), "here");
  host.send(SIGKILL);
  static_cast<void>(host.wait());
  std::this_thread::sleep_for(100ms);
  EXPECT_TRUE(has_name(name));
  open_gate(gate);
  EXPECT_TRUE(is_gone_soon(name));
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond));
}

// ---- the names of a family

TEST(SharedMemoryNamesTest, AFamilysEndRemovesOnlyWhatItMade) {
  const std::string replaced = unique_name();
  const std::string attached = unique_name();
  SharedMemory mine = SharedMemory::create(attached, 10);
  const HostRun run = run_host([&] {
    static const SharedMemory made = SharedMemory::create(replaced, 10);
    static const SharedMemory other = SharedMemory::attach(attached);
    std::filesystem::remove(shm_path(replaced));
    std::ofstream(shm_path(replaced)) << "a stranger's";
    HOST_CHECK(error_number_of([&] { SharedMemory::create(attached, 10); }) == EEXIST);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_TRUE(has_name(replaced));
  EXPECT_TRUE(has_name(attached));
  std::filesystem::remove(shm_path(replaced));
  mine.unlink();
}

TEST(SharedMemoryNamesTest, AChildThatTheHostForksHasNamesOfItsOwn) {
  const std::string name = unique_name();
  SharedMemory inherited = SharedMemory::create(unique_name(), 10);
  const pid_t child = fork();
  if (child == 0) {
    inherited.span()[0] = byte_of(8);
    static const SharedMemory made = SharedMemory::create(name, 10);
    _exit(has_name(name) ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(is_gone_soon(name));
  EXPECT_EQ(inherited.span()[0], byte_of(8));
  EXPECT_TRUE(has_name(inherited.name()));
  inherited.unlink();
}

TEST(SharedMemoryNamesTest, WithoutAWardenNoNameIsGiven) {
  const HostRun run = run_host([] {
    SharedMemory before = SharedMemory::create("", 10);
    const int warden = warden::Family::current()->warden_pid();
    ::kill(warden, SIGKILL);
    HOST_CHECK(wait_until([] { return warden::Family::current()->warden_lost(); }));
    const std::set<std::string> names = names_in_shm();
    thrown_by<FamilyBroken>([] { SharedMemory::create("", 10); });
    HOST_CHECK(names_in_shm() == names);
    HOST_CHECK(SharedMemory::attach(before.name()).size() == 10);
    before.unlink();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// Kills its warden and itself.
int vanish(const std::string& chosen) {
  static const SharedMemory automatic = SharedMemory::create("", 10);
  static const SharedMemory named = SharedMemory::create(chosen, 10);
  say(automatic.name());
  ::kill(warden::Family::current()->warden_pid(), SIGKILL);
  ::kill(getpid(), SIGKILL);
  return 0;
}

int sweep() {
  SharedMemory::create("", 10).unlink();
  return 0;
}

TEST(SharedMemoryNamesTest, AutomaticNamesThatOutliveEverythingAreSweptByTheNextProgram) {
  const std::string chosen = unique_name();
  const HostRun gone = run_host([&] { return vanish(chosen); });
  EXPECT_EQ(gone.end, "signal 9");
  const std::string automatic = gone.out.substr(0, gone.out.find('\n'));
  ASSERT_TRUE(is_automatic(automatic)) << automatic;
  EXPECT_TRUE(has_name(automatic));
  EXPECT_EQ(run_host(sweep).end, "exit 0");
  EXPECT_FALSE(has_name(automatic));
  EXPECT_TRUE(has_name(chosen)) << "as Python's";
  SharedMemory::attach(chosen).unlink();
}

TEST(SharedMemoryNamesTest, ASweepSparesWhatIsInUseAndWhatIsAStrangers) {
  SharedMemory live = SharedMemory::create("", 10);
  const std::string closed = live.name();
  live.close();  // its name is still there for others
  const std::string strangers = "psm_00c0ffee";
  std::ofstream(shm_path(strangers)) << "Python's, or anybody's";
  const HostRun gone = run_host([] { return vanish(unique_name()); });
  const std::string orphan = gone.out.substr(0, gone.out.find('\n'));
  {
    const SharedMemory attached = SharedMemory::attach(orphan);
    EXPECT_EQ(run_host(sweep).end, "exit 0");
    EXPECT_TRUE(has_name(orphan)) << "somebody has it mapped";
  }
  EXPECT_EQ(run_host(sweep).end, "exit 0");
  EXPECT_FALSE(has_name(orphan));
  EXPECT_TRUE(has_name(closed));
  EXPECT_TRUE(has_name(strangers));
  std::filesystem::remove(shm_path(strangers));
  live.unlink();
  for (const std::string& name : names_in_shm()) {
    if (is_unique(name)) std::filesystem::remove(shm_path(name));
  }
}

constexpr int kMostNames = 16384;

TEST(SharedMemoryNamesTest, MoreNamesThanAFamilyCanHaveAreATypedError) {
  const HostRun run = run_host([] {
    const std::string stem = unique_name();
    const auto name = [&](int i) { return stem + "-" + std::to_string(i); };
    for (int i = 0; i < kMostNames; ++i) SharedMemory::create(name(i), 1).close();
    thrown_by<Full>([&] { SharedMemory::create(name(kMostNames), 1); });
    HOST_CHECK(!has_name(name(kMostNames)));
    SharedMemory::attach(name(7)).unlink();
    SharedMemory::create(name(kMostNames), 1).close();
    thrown_by<Full>([&] { SharedMemory::create(name(7), 1); });
    // Who else removes names tells nobody.
    for (int i = 100; i < 200; ++i) std::filesystem::remove(shm_path(name(i)));
    for (int i = 100; i < 200; ++i) SharedMemory::create(name(i), 1).close();
    thrown_by<Full>([&] { SharedMemory::create(name(7), 1); });
    return testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
  EXPECT_TRUE(wait_until([] { return std::ranges::none_of(names_in_shm(), is_unique); }));
}

TEST(SharedMemoryNamesTest, WhatOthersRemoveDoesNotPileUp) {
  const HostRun run = run_host([] {
    for (int i = 0; i < 1000; ++i) {
      std::filesystem::remove(shm_path(SharedMemory::create("", 1).name()));
    }
    const int warden = warden::Family::current()->warden_pid();
    HOST_CHECK(open_files(warden).size() < 50);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// What a member that is broken or worse may send.
TEST(SharedMemoryNamesTest, NoMessageHasTheWardenRemoveAStrangersNameOrDie) {
  const std::string strangers = unique_name();
  const HostRun run = run_host([&] {
    SharedMemory::create("", 10).unlink();
    std::ofstream(shm_path(strangers)) << "somebody else's";
    const warden::Family& family = *warden::Family::current();
    const auto answer_to = [&](const warden::NameMessage& message, int file) {
      sys::Fd ends[2];
      HOST_CHECK(sys::packet_socket_pair(ends) == 0);
      const std::byte packet{};
      HOST_CHECK(sys::send_packet(ends[0].get(), std::span(&packet, 1), file, false) == 0);
      HOST_CHECK(sys::send_packet(family.socket(), std::as_bytes(std::span(&message, 1)),
                                  ends[1].get(), true) == 0);
      ends[1].reset();
      warden::NameAnswer answer;
      sys::Fd unused;
      HOST_CHECK(sys::becomes_readable(ends[0].get(), sys::kForever) == 1);
      const long length =
          sys::receive_packet(ends[0].get(), std::as_writable_bytes(std::span(&answer, 1)), unused);
      return length <= 0 ? -1 : answer.error;
    };
    warden::NameMessage message;
    message.length = static_cast<std::uint32_t>(strangers.size());
    std::ranges::copy(strangers, message.name.begin());
    const sys::Fd file(sys::open_named_memory(strangers.c_str(), false));
    HOST_CHECK(answer_to(message, file.get()) == EINVAL);
    HOST_CHECK(answer_to(message, -1) == EMFILE);
    const sys::Fd fresh(sys::create_unnamed_memory(10, true));
    HOST_CHECK(answer_to(message, fresh.get()) == EEXIST);
    message.name[3] = '/';
    HOST_CHECK(answer_to(message, fresh.get()) == EINVAL);
    message.length = 257;
    HOST_CHECK(answer_to(message, fresh.get()) == -1);
    std::mt19937_64 random(seed_of_the_day());
    for (int i = 0; i < 10'000; ++i) {
      for (std::byte& byte : std::as_writable_bytes(std::span(&message, 1))) {
        byte = static_cast<std::byte>(random());
      }
      message.request = static_cast<warden::NameRequest>(random() % 3);
      message.length = static_cast<std::uint32_t>(random() % 300);
      HOST_CHECK(sys::send_packet(family.socket(), std::as_bytes(std::span(&message, 1)),
                                  i % 2 == 0 ? fresh.get() : -1, true) == 0);
    }
    SharedMemory::create("", 10).unlink();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_TRUE(std::filesystem::remove(shm_path(strangers)));
}

TEST(SharedMemoryNamesTest, ThreadsMayMakeThemAtTheSameTime) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 50; ++i) SharedMemory::create("", 100).unlink();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- the codec

TEST(SharedMemoryTest, ItsEncodingIsItsName) {
  SharedMemory made = SharedMemory::create(unique_name(), 64);
  made.span()[0] = byte_of(4);
  const std::vector<std::byte> bytes = encode(made);
  SharedMemory arrived = decode<SharedMemory>(bytes);
  EXPECT_EQ(arrived.name(), made.name());
  EXPECT_EQ(first_of(arrived), 4);
  made.close();
  EXPECT_EQ(first_of(decode<SharedMemory>(encode(made))), 4);
  made.unlink();
  thrown_by<StaleHandle>([&] { static_cast<void>(decode<SharedMemory>(bytes)); });
  SharedMemory other = SharedMemory::create(made.name(), 64);
  thrown_by<StaleHandle>([&] { static_cast<void>(decode<SharedMemory>(bytes)); });
  other.unlink();
}

TEST(SharedMemoryTest, BytesThatNameNothingAreATypedError) {
  std::vector<std::byte> bytes(8 + 16 + 8 + 3, byte_of(0));
  const std::uint64_t id = detail::type_id<SharedMemory>();
  std::memcpy(bytes.data(), &id, sizeof id);
  bytes[24] = byte_of(3);
  std::memcpy(bytes.data() + 32, "a/b", 3);
  thrown_by<DecodeError>([&] { static_cast<void>(decode<SharedMemory>(bytes)); });
  bytes[24] = byte_of(200);
  thrown_by<DecodeError>([&] { static_cast<void>(decode<SharedMemory>(bytes)); });
}

// ---- Python

TEST(SharedMemoryPythonTest, PythonReadsAndWritesWhatIsMadeHere) {
  SharedMemory made = SharedMemory::create(unique_name(), 5000);
  made.span()[0] = byte_of(42);
  const PythonRun run = run_python(R"(
from multiprocessing import shared_memory, resource_tracker
import sys
s = shared_memory.SharedMemory(sys.argv[1])
resource_tracker.unregister(s._name, 'shared_memory')
print(s.size, s.buf[0], s.name == sys.argv[1])
s.buf[4999] = 7
s.close()
)",
                                   {made.name()});
  EXPECT_EQ(run.out, "5000 42 True\n");
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(made.span()[4999], byte_of(7));
  EXPECT_TRUE(has_name(made.name()));
  made.unlink();
}

TEST(SharedMemoryPythonTest, WhatPythonMakesIsReadAndWrittenHere) {
  const PythonRun run = run_python(R"(
from multiprocessing import shared_memory, resource_tracker
s = shared_memory.SharedMemory(create=True, size=3000)
resource_tracker.unregister(s._name, 'shared_memory')
s.buf[:5] = b'hello'
print(s.name)
)",
                                   {});
  ASSERT_EQ(run.status, 0);
  const std::string name = run.out.substr(0, run.out.size() - 1);
  SharedMemory memory = SharedMemory::attach(name);
  EXPECT_EQ(memory.size(), 3000U);
  EXPECT_EQ(std::memcmp(memory.span().data(), "hello", 5), 0);
  EXPECT_EQ(run_host(sweep).end, "exit 0");
  EXPECT_TRUE(has_name(name)) << "no sweep touches Python's names";
  EXPECT_EQ(error_number_of([&] { SharedMemory::create(name, 10); }), EEXIST);
  memory.unlink();
}

TEST(SharedMemoryPythonTest, PythonsTrackerRemovesTheNameAndNotTheMemory) {
  SharedMemory made = SharedMemory::create(unique_name(), 5000);
  const PythonRun run = run_python(R"(
from multiprocessing import shared_memory
import sys
s = shared_memory.SharedMemory(sys.argv[1])
s.buf[4999] = 7
)",
                                   {made.name()});
  EXPECT_EQ(run.status, 0);
  EXPECT_TRUE(is_gone_soon(made.name()));
  EXPECT_EQ(made.span()[4999], byte_of(7));
  made.span()[0] = byte_of(1);
  EXPECT_EQ(error_number_of([&] { made.unlink(); }), ENOENT);
  EXPECT_EQ(error_number_of([&] { SharedMemory::attach(made.name()); }), ENOENT);
}

TEST(SharedMemoryPythonTest, PythonMeetsOurErrorsAsItsOwn) {
  SharedMemory made = SharedMemory::create(unique_name(), 50);
  const PythonRun run = run_python(R"(
from multiprocessing import shared_memory
import sys
try:
    shared_memory.SharedMemory(sys.argv[1], create=True, size=50)
except FileExistsError:
    print('taken')
)",
                                   {made.name()});
  EXPECT_EQ(run.out, "taken\n");
  made.unlink();
}

}  // namespace
}  // namespace brood::test
