// EXPECT: Value and Array hold types that are their bytes
#include "brood/shared.hpp"

struct Part {
  brood::Array<int> array;
  int first;
};

int main() {
  const brood::Value<Part> part(Part{brood::Array<int>(3), 1});
  return part.get().first;
}
