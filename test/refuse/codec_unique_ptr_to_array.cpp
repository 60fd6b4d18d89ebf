// EXPECT: does not know its length: use std::vector
#include <memory>

#include "brood/codec.hpp"

int main() {
  std::unique_ptr<int[]> value;
  return static_cast<int>(brood::encode(value).size());
}
