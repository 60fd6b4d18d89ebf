// EXPECT: brood: this type does not say how it is sent: give it serialize(ar)
#include <vector>

#include "brood/codec.hpp"

int main() {
  std::vector<int>::iterator value;
  return static_cast<int>(brood::encode(value).size());
}
