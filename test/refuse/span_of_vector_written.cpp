// EXPECT: a span<T> parameter would write to a copy
#include <span>
#include <vector>

#include "brood/brood.hpp"

int main() {
  brood::Pool pool(1);
  std::vector<int> values(3);
  pool.submit([](std::span<int> v) { v[0] = 1; }, values).get();
  return values[0];
}
