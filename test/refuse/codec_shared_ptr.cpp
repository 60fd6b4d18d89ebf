// EXPECT: shared_ptr and weak_ptr cannot share across processes: send a unique_ptr
#include <memory>

#include "brood/codec.hpp"

int main() {
  auto value = std::make_shared<int>(1);
  return static_cast<int>(brood::encode(value).size());
}
