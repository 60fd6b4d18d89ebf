// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include <vector>

#include "brood/codec.hpp"

int main() {
  std::vector<int*> value;
  return static_cast<int>(brood::encode(value).size());
}
