// EXPECT: brood: enable_sendable is for trivially copyable classes
#include <string>

#include "brood/codec.hpp"

class Name {
  std::string text_;
};
template <>
inline constexpr bool brood::enable_sendable<Name> = true;

int main() {
  Name value;
  return static_cast<int>(brood::encode(value).size());
}
