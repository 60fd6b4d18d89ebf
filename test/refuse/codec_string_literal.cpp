// EXPECT: brood: a C array cannot be sent by itself
#include "brood/codec.hpp"

int main() {
  const char value[] = "text";
  return static_cast<int>(brood::encode(value).size());
}
