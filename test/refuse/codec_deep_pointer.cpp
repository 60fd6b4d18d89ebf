// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "brood/codec.hpp"

struct Outer {
  std::map<std::string, std::vector<std::optional<void*>>> inner;
};

int main() {
  Outer value;
  return static_cast<int>(brood::encode(value).size());
}
