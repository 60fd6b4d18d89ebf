// EXPECT: brood: a reference cannot be sent to another process
#include <tuple>

#include "brood/codec.hpp"

int main() {
  int n = 1;
  std::tuple<int&> value(n);
  return static_cast<int>(brood::encode(value).size());
}
