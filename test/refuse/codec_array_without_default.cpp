// EXPECT: brood: an aggregate with a C array among fields that need initialisers
#include <chrono>

#include "brood/codec.hpp"

class Id {
 public:
  explicit Id(int n) : n_(n) {}

 private:
  int n_;
};
template <>
inline constexpr bool brood::enable_sendable<Id> = true;

struct Holder {
  std::chrono::seconds time;
  Id id;
  int values[3];
};

int main() {
  Holder value{std::chrono::seconds(1), Id(2), {}};
  return static_cast<int>(brood::encode(value).size());
}
