// EXPECT: needs a public default constructor
#include "brood/codec.hpp"

class Id {
 public:
  explicit Id(int n) : n_(n) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(n_);
  }

 private:
  int n_;
};

int main() {
  Id value(1);
  return static_cast<int>(brood::encode(value).size());
}
