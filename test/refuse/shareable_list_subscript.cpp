// EXPECT: operator=
#include "brood/shareable_list.hpp"

int main() {
  auto list = brood::ShareableList::create({1, 2});
  list[0] = 5;
}
