// EXPECT: points into this process: send std::string or std::vector
#include <span>

#include "brood/codec.hpp"

int main() {
  int n[3] = {};
  std::span<int> value(n);
  return static_cast<int>(brood::encode(value).size());
}
