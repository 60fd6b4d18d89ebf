// EXPECT: a raw pointer cannot be sent to another process
#include "brood/value.hpp"

int main() {
  brood::Value<const char*> name("text");
  return name.get() == nullptr;
}
