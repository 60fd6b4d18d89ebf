// EXPECT: brood: a container whose comparator or hash has state cannot be sent
#include <set>

#include "brood/codec.hpp"

int main() {
  std::set<int, bool (*)(int, int)> value([](int a, int b) { return b < a; });
  return static_cast<int>(brood::encode(value).size());
}
