// EXPECT: points into this process: send std::string or std::vector
#include <string_view>

#include "brood/codec.hpp"

int main() {
  std::string_view value = "text";
  return static_cast<int>(brood::encode(value).size());
}
