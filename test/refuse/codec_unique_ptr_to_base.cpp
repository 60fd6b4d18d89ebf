// EXPECT: would lose the derived part
#include <memory>

#include "brood/codec.hpp"

struct Shape {
  virtual ~Shape() = default;
  template <class Archive>
  void serialize(Archive&) {}
};

int main() {
  std::unique_ptr<Shape> value;
  return static_cast<int>(brood::encode(value).size());
}
