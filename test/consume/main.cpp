// What a user's first program looks like, built in every way that brood can be had.
#include <brood/brood.hpp>

#include <cstdio>

int main() {
  brood::Pool pool(2);
  auto f = pool.submit([](int x) { return x * x; }, 7);
  const int square = f.get();
  std::printf("%d\n", square);
  return square == 49 ? 0 : 1;
}
