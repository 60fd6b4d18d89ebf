// EXPECT: shared_ptr and weak_ptr cannot share across processes: send a unique_ptr
#include <memory>
#include <utility>

#include "brood/codec.hpp"

int main() {
  std::pair<int, std::weak_ptr<int>> value;
  return static_cast<int>(brood::encode(value).size());
}
