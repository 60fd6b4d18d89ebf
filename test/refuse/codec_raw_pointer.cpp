// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include "brood/codec.hpp"

int main() {
  int n = 1;
  int* value = &n;
  return static_cast<int>(brood::encode(value).size());
}
