// EXPECT: brood: a union does not say which member it holds: use std::variant
#include "brood/codec.hpp"

union Either {
  int i;
  float f;
};

int main() {
  Either value{1};
  return static_cast<int>(brood::encode(value).size());
}
