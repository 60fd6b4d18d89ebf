// EXPECT: brood: a unique_ptr with its own deleter cannot be sent
#include <cstdio>
#include <memory>

#include "brood/codec.hpp"

int main() {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> value(nullptr, nullptr);
  return static_cast<int>(brood::encode(value).size());
}
