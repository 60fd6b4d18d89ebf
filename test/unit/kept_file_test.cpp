// The file of a task that died: what is written is read, and anything else is refused.
#include "pool/caller/kept_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "brood/error.hpp"

namespace brood::pool {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return bytes_of(std::string(std::istreambuf_iterator<char>(in), {}));
}

class KeptFileTest : public testing::Test {
 protected:
  KeptFileTest()
      : directory_(fs::temp_directory_path() / ("brood-kept-file-" + std::to_string(getpid()))) {
    fs::create_directory(directory_);
  }
  ~KeptFileTest() override { fs::remove_all(directory_); }

  static KeptDetails some_details() {
    KeptDetails details;
    details.program = "/opt/program";
    details.has_init = true;
    details.program_build_id = std::string("\0\xff", 2);
    details.pool = "a/pool";
    details.task = "::decode<int>(...)";
    details.pid = 4711;
    details.signal = 11;
    details.backtrace = "#0 here\n#1 there\n";
    details.stderr_tail = "the end\x1b[2J";
    details.elements = 5;
    details.element = 4;
    details.index = 104;
    details.number = 99;
    details.calls.resize(2);
    details.calls[0] = {.step = shm::SetupStep::initializer,
                        .name = "load",
                        .kind = detail::ThunkKind::process,
                        .bound_bytes = {3, 0},
                        .argument_bytes = 5};
    details.calls[1] = {.name = "decode",
                        .kind = detail::ThunkKind::map,
                        .code = {"", "id", 1000, 10},
                        .function = CodePlace{"/lib/x.so", "id", 2000, 20},
                        .function_name = "decode(int)",
                        .argument_bytes = 7};
    return details;
  }
  std::string write(const KeptDetails& details, const std::string& text = "abcargs1argume2") const {
    const std::vector<std::byte> bytes = bytes_of(text);
    const std::vector<std::span<const std::byte>> pieces = {std::span(bytes).first(6),
                                                            std::span(bytes).subspan(6)};
    return write_kept_file(directory_, details, pieces);
  }

  fs::path directory_;
};

TEST_F(KeptFileTest, WhatIsWrittenIsRead) {
  const KeptFile file = KeptFile::read(write(some_details()));
  const KeptDetails& details = file.details();
  EXPECT_EQ(details.program, "/opt/program");
  EXPECT_TRUE(details.has_init);
  EXPECT_EQ(details.program_build_id, some_details().program_build_id);
  EXPECT_EQ(details.index, 104U);
  EXPECT_EQ(details.calls[1].function->offset, 20U);
  ASSERT_EQ(file.calls().size(), 2U);
  ASSERT_EQ(file.calls()[0].bound.size(), 2U);
  const auto text = [](std::span<const std::byte> bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  EXPECT_EQ(text(file.calls()[0].bound[0]), "abc");
  EXPECT_EQ(text(file.calls()[0].bound[1]), "");
  EXPECT_EQ(text(file.calls()[0].arguments), "args1");
  EXPECT_EQ(text(file.calls()[1].arguments), "argume2");
}

TEST_F(KeptFileTest, ItsNameTellsWhatItIsAndIsItsOwn) {
  const fs::path one = write(some_details());
  const fs::path other = write(some_details());
  EXPECT_NE(one, other);
  EXPECT_TRUE(one.filename().string().starts_with("a_pool-decode_int-4711-99-")) << one;
  EXPECT_EQ(one.extension(), ".brood");
  struct stat info{};
  ASSERT_EQ(stat(one.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(KeptFileTest, ItIsDescribedWithoutSpeakingToTheTerminal) {
  const std::string text = describe(KeptFile::read(write(some_details())));
  for (const char* part :
       {"decode(int)", "4711", "signal 11", "#1 there", "104 of the range", "the end\\x1b[2J"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST_F(KeptFileTest, CutOffAnywhereItIsRefused) {
  const std::vector<std::byte> whole = read_bytes(write(some_details()));
  ASSERT_GT(whole.size(), 200U);
  static_cast<void>(KeptFile::parse(whole, "it"));
  const std::string path = directory_ / "cut";
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(KeptFile::parse({whole.begin(), whole.begin() + static_cast<long>(length)}, "it"),
                 DecodeError)
        << length;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(whole.data()), static_cast<long>(length));
    EXPECT_THROW(KeptFile::read(path), DecodeError) << length;
  }
  std::vector<std::byte> longer = whole;
  longer.push_back({});
  EXPECT_THROW(KeptFile::parse(longer, "it"), DecodeError);
}

TEST_F(KeptFileTest, WithAnyBitChangedItIsRefused) {
  const std::vector<std::byte> whole = read_bytes(write(some_details()));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::vector<std::byte> changed = whole;
      changed[at] ^= std::byte{1} << bit;
      EXPECT_THROW(KeptFile::parse(std::move(changed), "it"), DecodeError) << at << ", bit " << bit;
    }
  }
}

// As somebody would who makes the checksum fit.
TEST_F(KeptFileTest, NonsenseUnderARightChecksumIsReadOrRefused) {
  const std::vector<std::byte> whole = read_bytes(write(some_details()));
  constexpr std::size_t kPrefixBytes = 48;
  const std::vector<std::byte> body(whole.begin() + kPrefixBytes, whole.end());
  std::mt19937 random(1);
  int read = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> changed = body;
    for (unsigned i = 0; i <= random() % 3; ++i) {
      changed[random() % changed.size()] =
          static_cast<std::byte>(random() % 5 == 0 ? 0xff : random());
    }
    const std::span<const std::byte> part = changed;
    std::vector<std::byte> file =
        kept_file_prefix(random() % (body.size() + 2), std::span(&part, 1));
    file.insert(file.end(), changed.begin(), changed.end());
    try {
      static_cast<void>(describe(KeptFile::parse(std::move(file), "it")));
      ++read;
    } catch (const DecodeError&) {
      // As well.
    }
  }
  EXPECT_LT(read, 20'000);
}

TEST_F(KeptFileTest, DetailsThatContradictThemselvesAreRefused) {
  const auto refused = [&](auto&& change) {
    KeptDetails details = some_details();
    change(details);
    EXPECT_THROW(KeptFile::read(write(details)), DecodeError);
  };
  refused([](KeptDetails& d) { d.calls.clear(); });
  refused([](KeptDetails& d) { d.element = 5; });
  refused([](KeptDetails& d) { d.elements = 0; });
  refused([](KeptDetails& d) { d.calls[1].step = shm::SetupStep::prepare; });
  refused([](KeptDetails& d) { d.calls[0].step = shm::SetupStep::none; });
  refused([](KeptDetails& d) { d.calls[0].step = static_cast<shm::SetupStep>(9); });
  refused([](KeptDetails& d) { d.calls[0].kind = detail::ThunkKind::call; });
  refused([](KeptDetails& d) { d.calls[1].kind = detail::ThunkKind::other; });
  refused([](KeptDetails& d) { d.calls[1].argument_bytes = 8; });
  refused([](KeptDetails& d) { d.calls[1].argument_bytes = 6; });
  refused([](KeptDetails& d) { d.calls[1].argument_bytes = UINT64_MAX; });
  refused([](KeptDetails& d) { d.calls[0].bound_bytes = {UINT64_MAX, 4}; });
}

int some_function(int n) { return n; }

TEST(CodePlaceTest, CodeIsFoundAgainWhereItsModuleLies) {
  const void* code = reinterpret_cast<const void*>(&some_function);
  std::optional<CodePlace> place = place_of(code);
  ASSERT_TRUE(place);
  EXPECT_EQ(code_at(*place), code);
  CodePlace other = *place;
  other.build_id += "x";
  EXPECT_EQ(code_at(other), nullptr);
  other = *place;
  other.offset = other.module_bytes;
  EXPECT_EQ(code_at(other), nullptr);
  const int local = 0;
  EXPECT_FALSE(place_of(&local));
}

int named(int n) { return n; }

TEST(CodePlaceTest, AFunctionHasANameWhereItBegins) {
  const auto begin = reinterpret_cast<std::uintptr_t>(&named);
  const auto name = name_of_function(reinterpret_cast<const void*>(begin));
  ASSERT_TRUE(name);
  EXPECT_NE(name->find("named(int)"), std::string::npos) << *name;
  EXPECT_FALSE(name_of_function(reinterpret_cast<const void*>(begin + 1)));
}

}  // namespace
}  // namespace brood::pool
