// EXPECT: brood: a reference_wrapper points into this process
#include <functional>
#include <vector>

#include "brood/codec.hpp"

int main() {
  int n = 1;
  std::vector<std::reference_wrapper<int>> value{n};
  return static_cast<int>(brood::encode(value).size());
}
