// Decoding arbitrary bytes: only DecodeError may come out, and what decodes must survive the way
// back: encoding it and decoding that gives the same value.
#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "brood/codec.hpp"

namespace {

enum class Colour : std::uint8_t { red, green };
enum class Flag : bool { off, on };

struct Nothing {
  bool operator==(const Nothing&) const = default;
};

class Account {
 public:
  template <class Archive>
  void serialize(Archive& ar) {
    ar(owner_, cents_, tags_);
  }
  bool operator==(const Account&) const = default;

 private:
  std::string owner_;
  std::int64_t cents_ = 0;
  std::vector<Account> tags_;
};

struct Node {
  int value = 0;
  bool flag = false;
  Flag other = Flag::off;
  Colour colour = Colour::red;
  char text[5] = {};
  std::vector<Node> children;
  std::unique_ptr<Node> next;
  std::map<std::string, std::variant<std::monostate, int, std::string, std::vector<Node>>> named;

  bool operator==(const Node& o) const {
    return value == o.value && flag == o.flag && other == o.other && colour == o.colour &&
           std::equal(std::begin(text), std::end(text), std::begin(o.text)) &&
           children == o.children && named == o.named && !next == !o.next &&
           (!next || *next == *o.next);
  }
};

// No floating point: a NaN equals nothing.
struct Rich {
  Node node;
  std::vector<bool> bits;
  std::bitset<13> bitset;
  std::vector<std::uint32_t> numbers;
  std::u16string wide;
  std::deque<std::pair<int, std::string>> pairs;
  std::list<std::tuple<>> empties;
  std::vector<Nothing> nothings;
  std::array<std::optional<std::string>, 2> two;
  std::set<int> set;
  std::multiset<std::uint8_t> multiset;
  std::multimap<int, std::string> multimap;
  std::unordered_map<std::string, std::vector<int>> by_name;
  std::unordered_set<int> unordered;
  std::filesystem::path path;
  std::chrono::nanoseconds time{};
  Account account;
  std::vector<std::unique_ptr<int>> pointers;

  bool operator==(const Rich& o) const {
    const auto same = [](const std::unique_ptr<int>& a, const std::unique_ptr<int>& b) {
      return !a == !b && (!a || *a == *b);
    };
    return node == o.node && bits == o.bits && bitset == o.bitset && numbers == o.numbers &&
           wide == o.wide && pairs == o.pairs && empties == o.empties && nothings == o.nothings &&
           two == o.two && set == o.set && multiset == o.multiset && multimap == o.multimap &&
           by_name == o.by_name && unordered == o.unordered && path.native() == o.path.native() &&
           time == o.time && account == o.account &&
           std::equal(pointers.begin(), pointers.end(), o.pointers.begin(), o.pointers.end(), same);
  }
};

template <class T>
void check(std::span<const std::byte> bytes) {
  std::optional<T> value;
  try {
    brood::detail::Reader reader(bytes);
    value.emplace(brood::detail::decode_untagged<T>(reader));
    reader.expect_end();
  } catch (const brood::DecodeError&) {
    // Leftovers do not make the value wrong: one that came out is still checked below.
    if (!value) return;
  }
  if (brood::decode<T>(brood::encode(*value)) != *value) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 4) {
    case 0:
      check<Rich>(bytes);
      break;
    case 1:
      check<Node>(bytes);
      break;
    case 2:
      check<std::tuple<std::vector<Account>, std::map<std::string, Node>, std::u32string>>(bytes);
      break;
    default:
      check<std::vector<std::variant<Nothing, std::string, std::vector<Nothing>,
                                     std::unordered_map<int, std::optional<bool>>>>>(bytes);
  }
  return 0;
}
