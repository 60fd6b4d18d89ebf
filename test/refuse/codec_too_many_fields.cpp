// EXPECT: brood: an aggregate may have at most 32 fields
#include "brood/codec.hpp"

struct Wide {
  int a1, a2, a3, a4, a5, a6, a7, a8, a9, b1, b2, b3, b4, b5, b6, b7, b8, b9;
  int c1, c2, c3, c4, c5, c6, c7, c8, c9, d1, d2, d3, d4, d5, d6, d7, d8, d9;
};

int main() {
  Wide value{};
  return static_cast<int>(brood::encode(value).size());
}
