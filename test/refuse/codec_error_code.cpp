// EXPECT: brood: this type does not say how it is sent: give it serialize(ar)
#include <system_error>

#include "brood/codec.hpp"

int main() {
  std::error_code value;
  return static_cast<int>(brood::encode(value).size());
}
