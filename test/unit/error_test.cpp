// How errors put into words what they know.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "brood/error.hpp"

namespace brood::test {
namespace {

std::string shown(const std::string& tail) {
  Death death;
  death.pid = 7;
  death.signal = 6;
  death.task = "f()";
  death.stderr_tail = tail;
  const std::string text = WorkerDied(death).what();
  const std::string begin = "brood: worker 7 was killed by signal 6 while it ran f()";
  EXPECT_TRUE(text.starts_with(begin)) << text;
  return text.substr(begin.size());
}
std::string with_tail(const std::string& lines) { return "; the last it wrote to stderr:" + lines; }

TEST(WorkerDiedTest, ShowsTheLastLines) {
  EXPECT_EQ(shown(""), "");
  EXPECT_EQ(shown("\n\n"), "");
  EXPECT_EQ(shown("one"), with_tail("\n    one"));
  EXPECT_EQ(shown("one\n\ntwo\n"), with_tail("\n    one\n    \n    two"));
  EXPECT_EQ(shown("\none"), with_tail("\n    \n    one"));
  std::string many;
  std::string last;
  for (int i = 0; i < 30; ++i) {
    many += std::to_string(i) + "\n";
    if (i >= 20) last += "\n    " + std::to_string(i);
  }
  EXPECT_EQ(shown(many), with_tail(last));
  EXPECT_EQ(shown(std::string(4096, 'x')), with_tail("\n    " + std::string(200, 'x') + "..."));
}

TEST(WorkerDiedTest, SaysWhichLimitOnMemoryItWas) {
  Death death;
  death.pid = 7;
  death.signal = 9;
  death.task = "f";
  death.out_of_memory = true;
  EXPECT_STREQ(WorkerDied(death).what(),
               "brood: worker 7 was killed by signal 9 for want of memory while it ran f");
  death.memory_limit_bytes = 1024;
  EXPECT_STREQ(WorkerDied(death).what(),
               "brood: worker 7 was killed by signal 9 for having more than "
               "PoolOptions::memory_limit_bytes, 1024 while it ran f");
}

TEST(WorkerDiedTest, ShowsNothingThatCommandsATerminal) {
  EXPECT_EQ(shown("a\tb\x1b[31mc\rd\x7f"), with_tail("\n    a\tb\\x1b[31mc\\x0dd\\x7f"));
  EXPECT_EQ(shown(std::string("a\0b", 3)), with_tail("\n    a\\x00b"));
  EXPECT_EQ(shown("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa3"),
            with_tail("\n    \xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa3"));
  // Not UTF-8: a byte alone, one too few, a longer form, a surrogate, beyond the last, C1.
  EXPECT_EQ(shown("\x9b \xe2\x82"), with_tail("\n    \\x9b \\xe2\\x82"));
  EXPECT_EQ(shown("\xc0\x8a"), with_tail("\n    \\xc0\\x8a"));
  EXPECT_EQ(shown("\xed\xa0\x80"), with_tail("\n    \\xed\\xa0\\x80"));
  EXPECT_EQ(shown("\xf4\x90\x80\x80"), with_tail("\n    \\xf4\\x90\\x80\\x80"));
  EXPECT_EQ(shown("\xc2\x9b"), with_tail("\n    \\xc2\\x9b"));
}

TEST(WorkerDiedTest, ShowsAnyBytes) {
  std::string all;
  for (unsigned i = 0; i < 100'000; ++i) all += static_cast<char>((i * 2654435761U) >> 13U);
  const std::string text = shown(all);
  EXPECT_TRUE(std::ranges::none_of(text, [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == '\x7f';
  }));
}

}  // namespace
}  // namespace brood::test
