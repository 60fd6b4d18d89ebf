// EXPECT: brood: this type does not say how it is sent: give it serialize(ar)
#include <typeindex>
#include <typeinfo>

#include "brood/codec.hpp"

int main() {
  std::type_index value = typeid(int);
  return static_cast<int>(brood::encode(value).size());
}
