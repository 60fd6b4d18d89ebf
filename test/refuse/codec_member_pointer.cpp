// EXPECT: brood: a pointer to a member cannot be sent as a value
#include "brood/codec.hpp"

struct S {
  int n;
};

int main() {
  int S::* value = &S::n;
  return static_cast<int>(brood::encode(value).size());
}
