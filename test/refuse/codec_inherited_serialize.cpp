// EXPECT: would drop its own fields
#include "brood/codec.hpp"

class Base {
 public:
  template <class Archive>
  void serialize(Archive& ar) {
    ar(a);
  }
  int a = 0;
};
class Derived : public Base {
 public:
  int b = 0;
};

int main() {
  Derived value;
  return static_cast<int>(brood::encode(value).size());
}
