// EXPECT: Value and Array hold types that are their bytes
#include <vector>

#include "brood/array.hpp"

int main() {
  brood::Array<std::vector<int>> lists(3);
  return static_cast<int>(lists[0].size());
}
