// EXPECT: brood: save(ar) const and load(ar) are needed together
#include "brood/codec.hpp"

class Half {
 public:
  template <class Archive>
  void save(Archive& ar) const {
    ar(1);
  }
};

int main() {
  Half value;
  return static_cast<int>(brood::encode(value).size());
}
