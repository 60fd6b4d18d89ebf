// The control of this directory: it must compile, so that the others fail for their own reasons.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "brood/codec.hpp"

struct Inner {
  int n;
  double values[3];
};
struct Outer {
  std::map<std::string, std::vector<std::optional<Inner>>> inner;
  std::unique_ptr<Outer> next;
};
class Account {
 public:
  template <class Archive>
  void serialize(Archive& ar) {
    ar(owner_);
  }

 private:
  std::string owner_;
};

static_assert(brood::Sendable<std::tuple<Outer, Account>>);

int main() {
  const std::tuple<Outer, Account> value;
  const auto back = brood::decode<std::tuple<Outer, Account>>(brood::encode(value));
  return static_cast<int>(std::get<0>(back).inner.size());
}
