// EXPECT: the fields of this aggregate cannot be counted (a reference member?)
#include "brood/codec.hpp"

struct Holder {
  int a;
  int& r;
};

int main() {
  int n = 1;
  Holder value{1, n};
  return static_cast<int>(brood::encode(value).size());
}
