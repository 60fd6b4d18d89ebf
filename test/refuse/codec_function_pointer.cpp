// EXPECT: brood: a function pointer cannot be sent as a value
#include "brood/codec.hpp"

int main() {
  int (*value)() = [] { return 1; };
  return static_cast<int>(brood::encode(value).size());
}
