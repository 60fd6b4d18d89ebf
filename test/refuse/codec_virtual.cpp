// EXPECT: brood: a class with virtual functions cannot be sent by copying its fields
#include "brood/codec.hpp"

struct Shape {
  virtual double area() const { return 0; }
};

int main() {
  Shape value;
  return static_cast<int>(brood::encode(value).size());
}
