// EXPECT: brood: std::function and std::any hide what they hold
#include <functional>

#include "brood/codec.hpp"

int main() {
  std::function<void()> value;
  return static_cast<int>(brood::encode(value).size());
}
