// EXPECT: work inside one process only: use brood::Lock
#include <mutex>

#include "brood/codec.hpp"

struct Guarded {
  std::mutex mutex;
  int n = 0;
};

int main() {
  Guarded value;
  return static_cast<int>(brood::encode(value).size());
}
