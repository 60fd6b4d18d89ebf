// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include "brood/codec.hpp"

int main() {
  const char* value = "text";
  return static_cast<int>(brood::encode(value).size());
}
