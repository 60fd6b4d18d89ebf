// What the codec promises: every sendable value arrives equal, and no bytes whatever do harm.
#include "brood/codec.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <any>
#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <cmath>
#include <complex>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <typeindex>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "support/time.hpp"

namespace {

using brood::decode;
using brood::DecodeError;
using brood::encode;
using brood::NotSendable;
using brood::Sendable;
using brood::TypeMismatch;

using Bytes = std::vector<std::byte>;

template <class T>
T round_trip(const T& value) {
  return decode<T>(encode(value));
}

template <class T>
void expect_round_trip(const T& value) {
  // Not EXPECT_EQ: a GoogleTest built as C++17 has no printer for char8_t.
  EXPECT_TRUE(round_trip(value) == value) << brood::detail::type_name<T>();
}

// The bytes of T's type id followed by `parts` as they are: how a forger would write.
template <class T, class... Parts>
Bytes forge(const Parts&... parts) {
  Bytes bytes;
  const auto append = [&bytes](const auto& part) {
    const auto raw = std::as_bytes(std::span(&part, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  };
  append(brood::detail::type_id<T>());
  (append(parts), ...);
  return bytes;
}

constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;

struct Point {
  double x = 0;
  double y = 0;
  bool operator==(const Point&) const = default;
};

enum class Colour : std::uint8_t { red, green };
enum class Flag : bool { off, on };
enum Old { old_a, old_b };

struct Nothing {
  bool operator==(const Nothing&) const = default;
};

struct Nested {
  std::string name;
  Point at;
  std::vector<Point> points;
  std::optional<Colour> colour;
  bool operator==(const Nested&) const = default;
};

struct WithArrays {
  char label[16];
  std::string words[2];
  int grid[2][3];
  std::uint8_t last;
  bool operator==(const WithArrays&) const = default;
};

struct LongText {
  char text[4096];
  int n;
  bool operator==(const LongText&) const = default;
};

struct WithBits {
  unsigned low : 3;
  unsigned high : 13;
  std::string name;
  bool operator==(const WithBits&) const = default;
};

struct TwentyFour {
  int a, b, c, d, e, f, g, h;
  std::string i, j, k, l, m, n, o, p;
  double q, r, s, t, u, v, w, x;
  bool operator==(const TwentyFour&) const = default;
};

struct ThirtyTwo {
  int a1, a2, a3, a4, a5, a6, a7, a8, b1, b2, b3, b4, b5, b6, b7, b8;
  char c1, c2, c3, c4, c5, c6, c7, c8;
  bool d1, d2, d3, d4, d5, d6, d7, d8;
  bool operator==(const ThirtyTwo&) const = default;
};

struct Awkward {  // members whose constructors compete for anything convertible
  std::tuple<int> one;
  std::tuple<std::tuple<int>> two;
  std::optional<std::optional<int>> three;
  std::variant<int, std::string> four;
  std::pair<std::string, std::string> five;
  std::chrono::milliseconds six;
  std::complex<float> seven;
  std::filesystem::path eight;
  std::vector<std::vector<std::string>> nine;
  std::map<int, std::string> ten;
  std::bitset<5> eleven;
  std::array<int, 3> twelve;
  bool operator==(const Awkward&) const = default;
};

// No default constructor, but an aggregate.
struct Celsius {
  const double degrees;
  std::unique_ptr<int> serial;
};
struct List {
  int value = 0;
  std::unique_ptr<List> next;
};
struct Tree {
  int value = 0;
  std::vector<Tree> children;
  bool operator==(const Tree&) const = default;
};
struct Directory {
  std::map<std::string, std::variant<int, std::unique_ptr<Directory>>> entries;
};

class Account {
 public:
  Account() = default;
  Account(std::string owner, long cents) : owner_(std::move(owner)), cents_(cents) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(owner_, cents_);
  }
  bool operator==(const Account&) const = default;

 private:
  std::string owner_;
  long cents_ = 0;
};

class Positive {
 public:
  Positive() = default;
  explicit Positive(int value) : value_(value) {}
  template <class Archive>
  void save(Archive& ar) const {
    static_assert(Archive::is_saving::value);
    ar & value_ & name_;
  }
  template <class Archive>
  void load(Archive& ar) {
    static_assert(Archive::is_loading::value);
    ar & value_ & name_;
    if (value_ <= 0) throw std::invalid_argument("not positive");
  }
  bool operator==(const Positive& other) const { return value_ == other.value_; }

 private:
  int value_ = 1;
  char name_[4] = {'p', 'o', 's', 0};
};

class Shape {  // virtual functions are fine for a class that says how it is sent
 public:
  virtual ~Shape() = default;
  virtual double area() const { return side_ * side_; }
  template <class Archive>
  void serialize(Archive& ar) {
    ar(side_);
  }
  double side_ = 1;
};

class Endless {
 public:
  Endless() = default;
  std::unique_ptr<Endless> next;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(next);
  }
};

class Silent {  // serializes to nothing at all
 public:
  Silent() = default;
  template <class Archive>
  void serialize(Archive& /*ar*/) {}
  bool operator==(const Silent&) const { return true; }
};

class Money {
 public:
  explicit Money(long cents) : cents_(cents) {}
  bool operator==(const Money&) const = default;

 private:
  long cents_;
};

class Handle {  // stands for Queue, Lock and the like
 public:
  explicit Handle(int id) : id_(id) {}
  int id() const { return id_; }

 private:
  int id_;
};

}  // namespace

namespace elsewhere {
class Free {
 public:
  int value = 0;
  explicit Free(int v = 0) : value(v) {}
  bool operator==(const Free&) const = default;
};
template <class Archive>
void serialize(Archive& ar, Free& free) {
  ar(free.value);
}

class FreePair {
 public:
  int value = 0;
  explicit FreePair(int v = 0) : value(v) {}
  bool operator==(const FreePair&) const = default;
};
template <class Archive>
void save(Archive& ar, const FreePair& free) {
  ar(free.value + 1);
}
template <class Archive>
void load(Archive& ar, FreePair& free) {
  ar(free.value);
  --free.value;
}
}  // namespace elsewhere

template <>
inline constexpr bool brood::enable_sendable<Money> = true;

template <>
struct brood::detail::Codec<Handle> {
  static constexpr std::optional<std::size_t> fixed_size = sizeof(int);
  template <class Out>
  static void encode(const Handle& handle, Out& out) {
    out.write_scalar(handle.id());
  }
  static Handle decode(Reader& reader) { return Handle(reader.read_scalar<int>()); }
};

namespace {

// ---------------------------------------------------------------- round trips

TEST(CodecRoundTrip, ScalarsArriveEqual) {
  expect_round_trip(true);
  expect_round_trip(false);
  expect_round_trip('x');
  expect_round_trip(u'x');
  expect_round_trip(static_cast<signed char>(-7));
  expect_round_trip(std::numeric_limits<short>::min());
  expect_round_trip(std::numeric_limits<int>::min());
  expect_round_trip(std::numeric_limits<unsigned long long>::max());
  expect_round_trip(1.5F);
  expect_round_trip(-0.1);
  expect_round_trip(0.1L);
  expect_round_trip(std::byte{200});
  EXPECT_TRUE(std::isnan(round_trip(std::numeric_limits<double>::quiet_NaN())));
}

TEST(CodecRoundTrip, EnumsArriveEqualAndMayHoldAnyValueOfTheirType) {
  expect_round_trip(Colour::green);
  expect_round_trip(Flag::on);
  expect_round_trip(old_b);
  expect_round_trip(static_cast<Colour>(77));
}

TEST(CodecRoundTrip, StringsOfEveryCharacterTypeArriveEqual) {
  expect_round_trip(std::string());
  expect_round_trip(std::string("zero \0 inside", 13));
  expect_round_trip(std::string(100000, 'x'));
  expect_round_trip(std::wstring(L"wide"));
  expect_round_trip(std::u8string(u8"eight"));
  expect_round_trip(std::u16string(u"sixteen"));
  expect_round_trip(std::u32string(U"thirty-two"));
  expect_round_trip(std::filesystem::path("/tmp/a b/c"));
}

TEST(CodecRoundTrip, SequencesArriveEqual) {
  expect_round_trip(std::vector<int>{});
  expect_round_trip(std::vector<int>{1, 2, 3});
  expect_round_trip(std::vector<std::string>{"a", "", "ccc"});
  expect_round_trip(std::vector<Point>{{1, 2}, {3, 4}});
  expect_round_trip(std::vector<std::vector<double>>{{1}, {}, {2, 3}});
  expect_round_trip(std::deque<int>{1, 2, 3});
  expect_round_trip(std::deque<std::string>{"x", "y"});
  expect_round_trip(std::list<std::pair<int, std::string>>{{1, "a"}, {2, "b"}});
  expect_round_trip(std::array<double, 3>{1, 2, 3});
  expect_round_trip(std::array<std::string, 2>{"a", "b"});
  expect_round_trip(std::array<std::string, 0>{});
  expect_round_trip(std::array<bool, 3>{true, false, true});
}

TEST(CodecRoundTrip, BitsArriveEqualAtEveryLength) {
  for (std::size_t size = 0; size < 70; ++size) {
    std::vector<bool> bits(size);
    for (std::size_t i = 0; i < size; ++i) bits[i] = i % 3 == 0;
    expect_round_trip(bits);
  }
  expect_round_trip(std::bitset<13>(0x1555));
  expect_round_trip(std::bitset<64>(~0ULL));
  expect_round_trip(std::bitset<0>());
  EXPECT_EQ(encode(std::vector<bool>(80)).size(), 8U + 8U + 10U);
}

TEST(CodecRoundTrip, VocabularyTypesArriveEqual) {
  expect_round_trip(std::pair<int, std::string>(1, "one"));
  expect_round_trip(std::tuple<>());
  expect_round_trip(std::tuple<int, std::string, double>(1, "x", 2.5));
  expect_round_trip(std::tuple<std::tuple<int>>(std::tuple<int>(3)));
  expect_round_trip(std::optional<int>());
  expect_round_trip(std::optional<std::string>("x"));
  expect_round_trip(std::optional<std::optional<int>>(std::optional<int>()));
  expect_round_trip(std::monostate());
  expect_round_trip(std::variant<std::monostate, int, std::string>("text"));
  expect_round_trip(std::variant<int, int>(std::in_place_index<1>, 5));
  expect_round_trip(std::chrono::nanoseconds(123));
  expect_round_trip(std::chrono::duration<double>(1.25));
  expect_round_trip(std::chrono::system_clock::now());
  expect_round_trip(std::chrono::steady_clock::now());
  expect_round_trip(std::complex<double>(1, -2));
}

TEST(CodecRoundTrip, AssociativeContainersArriveEqual) {
  expect_round_trip(std::map<std::string, int>{{"a", 1}, {"b", 2}});
  expect_round_trip(std::map<int, int, std::greater<>>{{1, 1}, {2, 2}});
  expect_round_trip(std::multimap<int, std::string>{{1, "b"}, {1, "a"}, {0, "c"}});
  expect_round_trip(std::set<int>{3, 1, 2});
  expect_round_trip(std::multiset<int>{3, 1, 1});
  expect_round_trip(std::unordered_map<std::string, std::vector<int>>{{"x", {1}}, {"y", {}}});
  expect_round_trip(std::unordered_multimap<int, int>{{1, 2}, {1, 3}});
  expect_round_trip(std::unordered_set<std::string>{"a", "b"});
  expect_round_trip(std::unordered_multiset<int>{1, 1, 2});
}

TEST(CodecRoundTrip, AMultimapKeepsTheOrderOfEqualKeys) {
  const std::multimap<int, int> sent{{1, 30}, {1, 10}, {1, 20}};
  const auto got = round_trip(sent);
  std::vector<int> values;
  for (const auto& [key, value] : got) values.push_back(value);
  EXPECT_EQ(values, (std::vector<int>{30, 10, 20}));
}

TEST(CodecRoundTrip, AggregatesNeedNoBoilerplate) {
  expect_round_trip(Nothing{});
  expect_round_trip(Point{1, 2});
  expect_round_trip(Nested{"n", {1, 2}, {{3, 4}, {5, 6}}, Colour::green});
  expect_round_trip(WithBits{5, 4099, "bits"});
  expect_round_trip(TwentyFour{1,   2,   3,   4,   5,   6,   7,   8,   "i", "j", "k", "l",
                               "m", "n", "o", "p", 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5});
  expect_round_trip(ThirtyTwo{1,   2,   3,    4,     5,    6,     7,    8,     9,    10,  11,
                              12,  13,  14,   15,    16,   'a',   'b',  'c',   'd',  'e', 'f',
                              'g', 'h', true, false, true, false, true, false, true, true});
  expect_round_trip(Awkward{std::tuple<int>(1),
                            std::tuple<std::tuple<int>>(std::tuple<int>(2)),
                            std::optional<std::optional<int>>(3),
                            "four",
                            {"5", "five"},
                            std::chrono::milliseconds(6),
                            {7, 0},
                            "/eight",
                            {{"9"}, {}},
                            {{10, "ten"}},
                            std::bitset<5>(11),
                            {12, 13, 14}});
}

TEST(CodecRoundTrip, CArraysInsideAggregatesArriveEqual) {
  expect_round_trip(WithArrays{"label", {"a", "b"}, {{1, 2, 3}, {4, 5, 6}}, 9});
  LongText text{};
  std::memset(text.text, 'x', sizeof(text.text));
  text.n = 7;
  expect_round_trip(text);
}

TEST(CodecRoundTrip, ValuesWithoutDefaultConstructorArrive) {
  const Celsius sent{36.6, std::make_unique<int>(5)};
  const Celsius got = round_trip(sent);
  EXPECT_EQ(got.degrees, 36.6);
  EXPECT_EQ(*got.serial, 5);
  expect_round_trip(Money(250));
  expect_round_trip(std::vector<Money>{Money(1), Money(2)});
  expect_round_trip(std::array<Money, 2>{Money(1), Money(2)});
  expect_round_trip(std::map<int, Money>{{1, Money(2)}});
}

TEST(CodecRoundTrip, UniquePtrsArriveNullOrWithTheirObject) {
  EXPECT_EQ(round_trip(std::unique_ptr<int>()), nullptr);
  EXPECT_EQ(*round_trip(std::make_unique<int>(3)), 3);
  EXPECT_EQ(*round_trip(std::unique_ptr<const std::string>(new std::string("x"))), "x");
  std::vector<std::unique_ptr<std::string>> many;
  many.push_back(std::make_unique<std::string>("a"));
  many.push_back(nullptr);
  const auto got = round_trip(many);
  ASSERT_EQ(got.size(), 2U);
  EXPECT_EQ(*got[0], "a");
  EXPECT_EQ(got[1], nullptr);
}

TEST(CodecRoundTrip, TypesMayContainThemselves) {
  List list{1, std::make_unique<List>(List{2, nullptr})};
  EXPECT_EQ(round_trip(list).next->value, 2);
  expect_round_trip(Tree{1, {{2, {{3, {}}}}, {4, {}}}});
  Directory root;
  root.entries["file"] = 7;
  root.entries["dir"] = std::make_unique<Directory>();
  const Directory got = round_trip(root);
  EXPECT_EQ(std::get<int>(got.entries.at("file")), 7);
  EXPECT_TRUE(std::get<1>(got.entries.at("dir"))->entries.empty());
}

TEST(CodecRoundTrip, ClassesWithTheirOwnFunctionsArriveEqual) {
  expect_round_trip(Account("ann", 1250));
  expect_round_trip(Positive(4));
  expect_round_trip(elsewhere::Free(3));
  expect_round_trip(elsewhere::FreePair(3));
  expect_round_trip(std::vector<Account>{{"a", 1}, {"b", 2}});
  expect_round_trip(std::vector<Silent>(5));
  Shape shape;
  shape.side_ = 3;
  EXPECT_EQ(round_trip(shape).area(), 9);
}

TEST(CodecRoundTrip, EmptyElementsKeepTheirNumber) {
  expect_round_trip(std::vector<Nothing>(17));
  expect_round_trip(std::list<std::monostate>(3));
  expect_round_trip(std::vector<std::tuple<>>(4));
  expect_round_trip(std::vector<std::array<int, 0>>(2));
}

TEST(CodecRoundTrip, AHandleJoinsThroughTheCodecTrait) {
  static_assert(Sendable<Handle> && Sendable<std::vector<Handle>>);
  EXPECT_EQ(round_trip(Handle(4)).id(), 4);
  const auto got = round_trip(std::tuple<std::string, Handle>("q", Handle(6)));
  EXPECT_EQ(std::get<0>(got), "q");
  EXPECT_EQ(std::get<1>(got).id(), 6);
}

TEST(CodecRoundTrip, BulkElementsArriveFromAnyAlignment) {
  const std::vector<double> sent{1, 2, 3};
  const std::vector<Money> without_default{Money(1), Money(2)};
  for (std::size_t shift = 0; shift < 8; ++shift) {
    const auto decoded_at_shift = [&]<class T>(const T& value) {
      const Bytes bytes = encode(value);
      Bytes shifted(shift);
      shifted.insert(shifted.end(), bytes.begin(), bytes.end());
      return decode<T>(std::span(shifted).subspan(shift));
    };
    EXPECT_EQ(decoded_at_shift(sent), sent);
    EXPECT_EQ(decoded_at_shift(without_default), without_default);
  }
}

// ---------------------------------------------------------------- sizes

using brood::detail::encoded_size;
using brood::detail::fixed_size;
using brood::detail::has_fixed_size;
using brood::detail::is_bulk;

static_assert(fixed_size<int> == sizeof(int));
static_assert(fixed_size<const bool> == 1U);
static_assert(fixed_size<std::tuple<int, double>> == 12U);
static_assert(fixed_size<std::pair<int, int>> == 8U);
static_assert(fixed_size<std::array<double, 3>> == 24U);
static_assert(fixed_size<Nothing> == 0U);
static_assert(fixed_size<Point> == 16U);
static_assert(fixed_size<LongText> == 4100U);
static_assert(fixed_size<Handle> == 4U);
static_assert(!has_fixed_size<std::string> && !has_fixed_size<Nested> && !has_fixed_size<List>);
static_assert(!has_fixed_size<std::optional<int>> && !has_fixed_size<std::unique_ptr<int>>);
static_assert(is_bulk<Point> && is_bulk<Colour> && is_bulk<std::array<Point, 2>>);
static_assert(!is_bulk<bool> && !is_bulk<Flag> && !is_bulk<ThirtyTwo>);

template <class T>
void expect_exact_size(const T& value) {
  const std::size_t size = encoded_size(value);
  Bytes buffer(size);
  brood::detail::Writer writer(buffer);
  brood::detail::encode_untagged(value, writer);
  EXPECT_EQ(writer.room(), 0U);
  if constexpr (has_fixed_size<T>) {
    EXPECT_EQ(size, *fixed_size<T>);
  }
  if (size > 0) {
    Bytes short_buffer(size - 1);
    brood::detail::Writer short_writer(short_buffer);
    EXPECT_THROW(brood::detail::encode_untagged(value, short_writer), NotSendable);
  }
}

TEST(CodecSize, TheFirstPassComputesExactlyWhatTheSecondWrites) {
  expect_exact_size(7);
  expect_exact_size(Nothing{});
  expect_exact_size(Point{1, 2});
  expect_exact_size(std::string("abc"));
  expect_exact_size(Nested{"n", {1, 2}, {{3, 4}}, Colour::red});
  expect_exact_size(WithArrays{"label", {"a", "b"}, {{1, 2, 3}, {4, 5, 6}}, 9});
  expect_exact_size(std::vector<Nothing>(5));
  expect_exact_size(std::list<Nothing>(5));
  expect_exact_size(std::map<std::monostate, std::monostate>{{{}, {}}});
  expect_exact_size(std::vector<std::pair<bool, int>>{{true, 1}, {false, 2}});
  expect_exact_size(std::vector<Silent>(3));
  expect_exact_size(std::vector<bool>(13));
  expect_exact_size(Account("x", 1));
  expect_exact_size(std::unordered_map<int, std::string>{{1, "a"}, {2, "bb"}});
}

TEST(CodecSize, SeveralValuesShareOneBuffer) {
  Bytes buffer(encoded_size(5) + encoded_size(std::string("x")));
  brood::detail::Writer writer(buffer);
  brood::detail::encode_untagged(5, writer);
  brood::detail::encode_untagged(std::string("x"), writer);
  brood::detail::Reader reader(buffer);
  EXPECT_EQ(brood::detail::decode_untagged<int>(reader), 5);
  EXPECT_THROW(reader.expect_end(), DecodeError);
  EXPECT_EQ(brood::detail::decode_untagged<const std::string>(reader), "x");
  EXPECT_NO_THROW(reader.expect_end());
}

// ---------------------------------------------------------------- what is sendable

struct WithPointer {
  int n;
  int* p;
};
struct DeepPointer {
  std::vector<std::map<int, WithPointer>> inner;
};
struct Base {
  int a;
};
struct WithBase : Base {
  int b;
};
struct WithReference {
  int& r;
};
struct WithDefaultedReference {
  int a;
  int& r = *new int;
};
union Either {
  int i;
  float f;
};
struct Virtual {
  virtual ~Virtual() = default;
  virtual void run() {}
  int n = 0;
};
class PrivatePointer {
 public:
  int* get() const { return p_; }

 private:
  int* p_ = nullptr;
};
class OnlySaves {
 public:
  template <class Archive>
  void save(Archive& ar) const {
    ar(1);
  }
};
class Heir : public Account {
 public:
  int more = 0;
};
class NeedsArgument {
 public:
  explicit NeedsArgument(int v) : value(v) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
  int value;
};
struct FinalVirtual final : Virtual {
  template <class Archive>
  void serialize(Archive& ar) {
    ar(n);
  }
};
struct TooMany {
  int a1, a2, a3, a4, a5, a6, a7, a8, b1, b2, b3, b4, b5, b6, b7, b8, c1, c2, c3, c4, c5, c6, c7,
      c8, d1, d2, d3, d4, d5, d6, d7, d8, e1;
};
struct ArrayWithoutDefault {
  Money m;
  int values[3];
};
struct ArrayOfWithoutDefault {
  Money m;
  std::array<int, 3> values;
};
struct Stateful {
  int modulus;
  bool operator()(int a, int b) const { return a % modulus < b % modulus; }
};
struct Recursive {
  std::vector<std::unique_ptr<Recursive>> kids;
  std::optional<int*> poison;
};

template <class T>
struct Around {  // what cannot be sent must not confuse the counting of fields either
  T first;
  int n;
  T last;
};
template <class T>
constexpr brood::detail::Refusal refusal_around = brood::detail::Found<Around<T>>::refusal;
using brood::detail::Refusal;
static_assert(refusal_around<std::any> == Refusal::type_erased);
static_assert(refusal_around<std::function<int()>> == Refusal::type_erased);
static_assert(refusal_around<std::mutex> == Refusal::synchronisation);
static_assert(refusal_around<std::atomic<int>> == Refusal::synchronisation);
static_assert(refusal_around<std::span<int>> == Refusal::view);
static_assert(refusal_around<std::shared_ptr<int>> == Refusal::shared_ownership);
static_assert(refusal_around<const char*> == Refusal::raw_pointer);
static_assert(refusal_around<Either> == Refusal::union_type);
static_assert(refusal_around<std::error_code> == Refusal::opaque_class);
static_assert(Sendable<Around<Awkward>> && Sendable<Around<Celsius>> && Sendable<Around<Money>>);
static_assert(Sendable<Around<std::unique_ptr<Tree>>> && Sendable<Around<const Nested>>);

static_assert(Sendable<int> && Sendable<const std::string> && Sendable<Awkward>);
static_assert(Sendable<List> && Sendable<Tree> && Sendable<Directory>);
static_assert(Sendable<Account> && Sendable<Positive> && Sendable<Shape> && Sendable<Money>);
static_assert(Sendable<ArrayOfWithoutDefault>);
static_assert(Sendable<std::unique_ptr<FinalVirtual>>);

static_assert(!Sendable<int*> && !Sendable<const char*> && !Sendable<void*>);
static_assert(!Sendable<int&> && !Sendable<const int&> && !Sendable<int&&>);
static_assert(!Sendable<void (*)()> && !Sendable<void()> && !Sendable<int Point::*>);
static_assert(!Sendable<std::nullptr_t> && !Sendable<void> && !Sendable<int[3]>);
static_assert(!Sendable<std::string_view> && !Sendable<std::span<int>>);
static_assert(!Sendable<std::initializer_list<int>>);
static_assert(!Sendable<std::reference_wrapper<int>> && !Sendable<std::tuple<int&>>);
static_assert(!Sendable<std::shared_ptr<int>> && !Sendable<std::weak_ptr<int>>);
static_assert(!Sendable<std::function<void()>> && !Sendable<std::any>);
static_assert(!Sendable<std::mutex> && !Sendable<std::atomic<int>>);
static_assert(!Sendable<std::error_code> && !Sendable<std::vector<int>::iterator>);
static_assert(!Sendable<std::type_index> && !Sendable<PrivatePointer>);
static_assert(!Sendable<Either> && !Sendable<Virtual>);
static_assert(!Sendable<std::unique_ptr<int[]>> && !Sendable<std::unique_ptr<Virtual>>);
static_assert(!Sendable<std::unique_ptr<int, void (*)(int*)>>);
static_assert(!Sendable<std::unique_ptr<Shape>>, "the pointee may be a derived class");
static_assert(!Sendable<std::map<int, int, bool (*)(int, int)>>);
static_assert(!Sendable<std::set<int, Stateful>>);
static_assert(!Sendable<WithPointer> && !Sendable<DeepPointer> && !Sendable<Recursive>);
static_assert(!Sendable<std::vector<int*>> && !Sendable<std::variant<int, std::string_view>>);
static_assert(!Sendable<WithBase> && !Sendable<WithReference>);
static_assert(!Sendable<WithDefaultedReference>);
static_assert(!Sendable<TooMany> && !Sendable<ArrayWithoutDefault>);
static_assert(!Sendable<OnlySaves> && !Sendable<Heir> && !Sendable<NeedsArgument>);
static_assert(!Sendable<decltype([] {})>, "callables are another module's business");

// ---------------------------------------------------------------- hostile bytes

struct Rich {
  bool flag = false;
  Colour colour = Colour::red;
  std::string name;
  std::vector<std::string> words;
  std::vector<double> numbers;
  std::vector<bool> bits;
  std::map<int, std::optional<std::string>> by_number;
  std::unordered_map<std::string, std::vector<int>> by_name;
  std::set<std::string> keys;
  std::variant<std::monostate, int, std::string, Point> any_of;
  std::list<std::pair<int, std::string>> pairs;
  std::array<std::string, 2> two;
  Tree tree;
  std::unique_ptr<Account> account;
  Positive positive;
  std::filesystem::path path;
  std::chrono::nanoseconds time{};
  std::vector<Nothing> nothings;
  std::vector<Silent> silents;
  std::bitset<11> bitset;
  char text[8] = {};
};

Rich rich_value() {
  Rich rich;
  rich.flag = true;
  rich.colour = Colour::green;
  rich.name = "rich";
  rich.words = {"one", "", "three"};
  rich.numbers = {1, 2.5};
  rich.bits = {true, false, true};
  rich.by_number = {{1, "x"}, {2, std::nullopt}};
  rich.by_name = {{"a", {1, 2}}, {"b", {}}};
  rich.keys = {"k", "l"};
  rich.any_of = Point{1, 2};
  rich.pairs = {{1, "p"}};
  rich.two = {"l", "r"};
  rich.tree = {1, {{2, {}}, {3, {{4, {}}}}}};
  rich.account = std::make_unique<Account>("ann", 3);
  rich.positive = Positive(3);
  rich.path = "/a/b";
  rich.time = std::chrono::nanoseconds(9);
  rich.nothings.resize(3);
  rich.silents.resize(2);
  rich.bitset = std::bitset<11>(0x2aa);
  std::strcpy(rich.text, "text");
  return rich;
}

// True if the bytes gave a value; anything but a value or a DecodeError fails the test.
template <class T>
bool decodes(std::span<const std::byte> bytes) {
  try {
    const T value = decode<T>(bytes);
    static_cast<void>(encode(value));
    return true;
  } catch (const DecodeError&) {
    return false;
  }
}

TEST(CodecHostile, TheRichValueItselfArrives) {
  const Bytes bytes = encode(rich_value());
  EXPECT_EQ(encode(decode<Rich>(bytes)).size(), bytes.size());
  EXPECT_EQ(decode<Rich>(bytes).by_name, rich_value().by_name);
  EXPECT_EQ(decode<Rich>(bytes).tree, rich_value().tree);
}

TEST(CodecHostile, EveryTruncationIsADecodeError) {
  const Bytes bytes = encode(rich_value());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    // A fresh allocation of just this size lets a sanitizer see a read past its end.
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(decodes<Rich>(cut)) << size;
  }
}

// Under a sanitizer an exception takes a hundred times as long: one value in seven, another seventh
// at each byte.
TEST(CodecHostile, EveryChangeOfOneByteGivesAValueOrADecodeError) {
  const Bytes bytes = encode(rich_value());
  const unsigned stride = brood::test::kSanitized ? 7 : 1;
  std::size_t tried = 0;
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned value = at % stride; value < 256; value += stride, ++tried) {
      Bytes changed = bytes;
      changed[at] = static_cast<std::byte>(value);
      refused += decodes<Rich>(changed) ? 0U : 1U;
    }
  }
  EXPECT_GT(refused, tried / 4);
}

TEST(CodecHostile, RandomBytesGiveAValueOrADecodeError) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = forge<Rich>();
    bytes.resize(8 + random() % 200);
    for (std::size_t i = 8; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>(random() % 3 == 0 ? random() : 0U);
    }
    static_cast<void>(decodes<Rich>(bytes));
  }
}

TEST(CodecHostile, LeftoverBytesAreADecodeError) {
  Bytes bytes = encode(5);
  bytes.push_back(std::byte{0});
  EXPECT_THROW(static_cast<void>(decode<int>(bytes)), DecodeError);
}

template <class T>
void expect_huge_lengths_refused() {
  for (const std::uint64_t length : {kHuge, ~std::uint64_t{0}, std::uint64_t{100},
                                     std::uint64_t{1} << 63, (~std::uint64_t{0}) / sizeof(T) + 2}) {
    EXPECT_THROW(static_cast<void>(decode<T>(forge<T>(length, std::uint64_t{0}))), DecodeError)
        << brood::detail::type_name<T>() << ' ' << length;
  }
}

TEST(CodecHostile, HugeLengthsAreRefusedBeforeAnythingIsAllocated) {
  expect_huge_lengths_refused<std::string>();
  expect_huge_lengths_refused<std::u32string>();
  expect_huge_lengths_refused<std::vector<char>>();
  expect_huge_lengths_refused<std::vector<double>>();
  expect_huge_lengths_refused<std::vector<bool>>();
  expect_huge_lengths_refused<std::vector<std::string>>();
  expect_huge_lengths_refused<std::deque<int>>();
  expect_huge_lengths_refused<std::list<int>>();
  expect_huge_lengths_refused<std::map<int, int>>();
  expect_huge_lengths_refused<std::unordered_set<int>>();
  expect_huge_lengths_refused<std::filesystem::path>();
}

TEST(CodecHostile, HugeNumbersOfEmptyElementsAreRefused) {
  expect_huge_lengths_refused<std::vector<Nothing>>();
  expect_huge_lengths_refused<std::vector<std::monostate>>();
  expect_huge_lengths_refused<std::list<std::tuple<>>>();
  expect_huge_lengths_refused<std::vector<std::array<int, 0>>>();
  expect_huge_lengths_refused<std::vector<Silent>>();
  expect_huge_lengths_refused<std::multiset<std::monostate>>();
  expect_huge_lengths_refused<std::unordered_multiset<std::monostate>>();
  expect_huge_lengths_refused<std::multimap<std::monostate, Nothing>>();
}

TEST(CodecHostile, AFewBytesNeverReserveMuchMemory) {
  using Large = std::array<std::optional<std::array<double, 4096>>, 1>;
  using T = std::vector<Large>;
  Bytes bytes = forge<T>(std::uint64_t{1000000});
  bytes.resize(bytes.size() + 1000000, std::byte{2});  // 32 GiB of elements, the first one invalid
  EXPECT_THROW(static_cast<void>(decode<T>(bytes)), DecodeError);
}

TEST(CodecHostile, TagsOutOfRangeAreDecodeErrors) {
  const std::uint8_t two = 2;
  EXPECT_THROW(static_cast<void>(decode<bool>(forge<bool>(two))), DecodeError);
  EXPECT_THROW(static_cast<void>(decode<Flag>(forge<Flag>(two))), DecodeError);
  using Optional = std::optional<char>;
  EXPECT_THROW(static_cast<void>(decode<Optional>(forge<Optional>(two, 'x'))), DecodeError);
  using Pointer = std::unique_ptr<char>;
  EXPECT_THROW(static_cast<void>(decode<Pointer>(forge<Pointer>(two, 'x'))), DecodeError);
  using Variant = std::variant<std::monostate, char>;
  EXPECT_THROW(static_cast<void>(decode<Variant>(forge<Variant>(two, 'x'))), DecodeError);
  using Bools = std::array<bool, 2>;
  EXPECT_THROW(static_cast<void>(decode<Bools>(forge<Bools>(true, two))), DecodeError);
  using Bits = std::bitset<3>;
  EXPECT_THROW(static_cast<void>(decode<Bits>(forge<Bits>(std::uint8_t{8}))), DecodeError);
  using Nothings = std::vector<Nothing>;
  EXPECT_THROW(static_cast<void>(decode<Nothings>(forge<Nothings>(std::uint64_t{1}, two))),
               DecodeError);
}

TEST(CodecHostile, DuplicateKeysAreDecodeErrors) {
  const std::uint64_t count = 2;
  const auto twice = [&]<class T>(T) { return forge<T>(count, 7, 7); };
  EXPECT_THROW(static_cast<void>(decode<std::set<int>>(twice(std::set<int>()))), DecodeError);
  using Unordered = std::unordered_set<int>;
  EXPECT_THROW(static_cast<void>(decode<Unordered>(twice(Unordered()))), DecodeError);
  using Map = std::map<int, int>;
  EXPECT_THROW(static_cast<void>(decode<Map>(forge<Map>(count, 7, 1, 7, 2))), DecodeError);
  using UnorderedMap = std::unordered_map<int, int>;
  EXPECT_THROW(static_cast<void>(decode<UnorderedMap>(forge<UnorderedMap>(count, 7, 1, 7, 2))),
               DecodeError);
  EXPECT_EQ(decode<std::multiset<int>>(twice(std::multiset<int>())).size(), 2U);
}

TEST(CodecHostile, ALoadFunctionsOwnExceptionBecomesADecodeError) {
  Bytes bytes = encode(Positive(1));
  bytes[8] = std::byte{0};
  try {
    static_cast<void>(decode<Positive>(bytes));
    FAIL() << "zero was accepted";
  } catch (const DecodeError& e) {
    EXPECT_NE(std::string(e.what()).find("not positive"), std::string::npos);
  }
}

TEST(CodecHostile, BytesMayChangeWhileTheyAreDecoded) {
  const Bytes bytes = encode(rich_value());
  void* memory =
      mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* shared = static_cast<std::byte*>(memory);
  std::memcpy(shared, bytes.data(), bytes.size());
  const pid_t writer = fork();  // a process and not a thread: this is no data race of one program
  if (writer == 0) {
    for (unsigned at = 8;; at = at * 1664525U + 1013904223U) {
      const std::size_t i = 8 + (at >> 8) % (bytes.size() - 8);
      auto* target = static_cast<volatile std::byte*>(shared + i);
      *target = static_cast<std::byte>(at >> 3);
      *target = bytes[i];
    }
  }
  ASSERT_GT(writer, 0);
  std::size_t values = 0;
  std::size_t errors = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  while (std::chrono::steady_clock::now() < end) {
    ++(decodes<Rich>(std::span(shared, bytes.size())) ? values : errors);
  }
  EXPECT_GT(values + errors, 100U);
  kill(writer, SIGKILL);
  waitpid(writer, nullptr, 0);
  munmap(memory, bytes.size());
}

// ---------------------------------------------------------------- depth

List nested_list(int levels) {
  List head;
  for (int i = 0; i < levels; ++i) head = List{i, std::make_unique<List>(std::move(head))};
  return head;
}

TEST(CodecDepth, AThousandLevelsAreSent) {
  const Bytes bytes = encode(nested_list(1000));
  EXPECT_EQ(decode<List>(bytes).value, 999);
}

TEST(CodecDepth, MoreAreRefusedByTheSender) {
  EXPECT_THROW(static_cast<void>(encode(nested_list(1001))), NotSendable);
  Tree tree;
  for (int i = 0; i < 1001; ++i) tree = Tree{i, {std::move(tree)}};
  EXPECT_THROW(static_cast<void>(encode(tree)), NotSendable);
}

TEST(CodecDepth, DepthBombsAreDecodeErrors) {
  Bytes list = forge<List>();
  for (int i = 0; i < 1000000; ++i) {
    list.resize(list.size() + sizeof(int));
    list.push_back(std::byte{1});
  }
  EXPECT_THROW(static_cast<void>(decode<List>(list)), DecodeError);

  Bytes tree = forge<Tree>();
  const Bytes one = encode(std::uint64_t{1});
  for (int i = 0; i < 100000; ++i) {
    tree.resize(tree.size() + sizeof(int));
    tree.insert(tree.end(), one.begin() + 8, one.end());
  }
  EXPECT_THROW(static_cast<void>(decode<Tree>(tree)), DecodeError);

  Bytes endless = forge<Endless>();
  endless.resize(1000000, std::byte{1});
  EXPECT_THROW(static_cast<void>(decode<Endless>(endless)), DecodeError);
}

// ---------------------------------------------------------------- types and errors

TEST(CodecType, AskingForAnotherTypeIsATypeMismatchThatNamesIt) {
  const Bytes bytes = encode(5);
  try {
    static_cast<void>(decode<std::vector<unsigned>>(bytes));
    FAIL() << "an int was taken for a vector";
  } catch (const TypeMismatch& e) {
    EXPECT_NE(std::string(e.what()).find("vector<unsigned int"), std::string::npos) << e.what();
  }
  EXPECT_THROW(static_cast<void>(decode<unsigned>(bytes)), TypeMismatch);
  EXPECT_EQ(decode<int>(bytes), 5);
}

TEST(CodecType, TypeIdsTellTypesApart) {
  using brood::detail::type_id;
  const std::set<std::uint64_t> ids{type_id<int>(),         type_id<unsigned>(), type_id<long>(),
                                    type_id<Point>(),       type_id<Tree>(),     type_id<char>(),
                                    type_id<std::string>(), type_id<float>()};
  EXPECT_EQ(ids.size(), 8U);
  static_assert(brood::detail::type_name<int>() == "int");
}

class Fickle {  // writes more on its second pass than the first one counted
 public:
  template <class Archive>
  void save(Archive& ar) const {
    for (int i = 0; i < passes_; ++i) ar(i);
    passes_ += step_;
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(passes_);
  }
  mutable int passes_ = 2;
  int step_ = 1;
};

TEST(CodecErrors, AValueThatChangesBetweenThePassesIsNotSendable) {
  Fickle grows;
  EXPECT_THROW(static_cast<void>(encode(grows)), NotSendable);
  Fickle shrinks;
  shrinks.step_ = -1;
  EXPECT_THROW(static_cast<void>(encode(shrinks)), NotSendable);
}

class Unlucky {  // neither built nor moved without risk: a variant loses its value over it
 public:
  Unlucky() = default;
  explicit Unlucky(int) { throw std::runtime_error("no value"); }
  Unlucky(const Unlucky&) noexcept(false) {}
  template <class Archive>
  void serialize(Archive& /*ar*/) {}
};

TEST(CodecErrors, AValuelessVariantIsNotSendable) {
  std::variant<int, Unlucky> variant(1);
  EXPECT_THROW(variant.emplace<Unlucky>(5), std::runtime_error);
  ASSERT_TRUE(variant.valueless_by_exception());
  EXPECT_THROW(static_cast<void>(encode(variant)), NotSendable);
}

}  // namespace
