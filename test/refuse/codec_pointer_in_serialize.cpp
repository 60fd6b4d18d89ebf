// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include "brood/codec.hpp"

class Node {
 public:
  template <class Archive>
  void serialize(Archive& ar) {
    ar(next_);
  }

 private:
  Node* next_ = nullptr;
};

int main() {
  Node value;
  return static_cast<int>(brood::encode(value).size());
}
