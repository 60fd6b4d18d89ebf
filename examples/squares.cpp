#include <brood/brood.hpp>

#include <cstdlib>
#include <iostream>

int square(int x) {
  if (x == 3) std::abort();  // one input crashes the decoder
  return x * x;
}

int main() {
  brood::Pool pool;
  for (int x = 1; x <= 4; ++x) {
    try {
      const int y = pool.submit(square, x).get();
      std::cout << x << ": " << y << '\n';
    } catch (const brood::WorkerDied& e) {
      std::cout << x << ": the worker died of signal " << e.signal << '\n';
    }
  }
}
