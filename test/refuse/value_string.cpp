// EXPECT: Value and Array hold types that are their bytes
#include <string>

#include "brood/value.hpp"

int main() {
  brood::Value<std::string> name("text");
  return static_cast<int>(name.get().size());
}
