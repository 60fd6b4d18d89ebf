// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include <vector>

#include "brood/codec.hpp"

struct Inner {
  int n;
  double* p;
};

int main() {
  Inner inner{1, nullptr};
  std::vector<Inner> value{inner};
  return static_cast<int>(brood::encode(value).size());
}
