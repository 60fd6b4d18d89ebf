// EXPECT: brood: a class that can be neither copied nor moved cannot be sent
#include "brood/codec.hpp"

class Fixed {
 public:
  Fixed() = default;
  Fixed(const Fixed&) = delete;
  Fixed& operator=(const Fixed&) = delete;
};

int main() {
  Fixed value;
  return static_cast<int>(brood::encode(value).size());
}
