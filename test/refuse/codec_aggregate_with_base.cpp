// EXPECT: brood: the fields of an aggregate with a base class cannot be taken apart
#include "brood/codec.hpp"

struct Base {
  int a;
};
struct Derived : Base {
  int b;
};

int main() {
  Derived value{{1}, 2};
  return static_cast<int>(brood::encode(value).size());
}
