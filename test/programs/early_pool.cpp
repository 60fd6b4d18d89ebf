// A pool that is a global variable is made before the program's own code is known: it is told so.
#include <brood/brood.hpp>

#include <cstdio>
#include <exception>
#include <string>

namespace {

std::string greet(int i) { return "hello " + std::to_string(i); }

brood::Pool pool(1);

}  // namespace

int main() {
  try {
    std::puts(pool.submit(greet, 1).get().c_str());
  } catch (const std::exception& e) {
    std::puts(e.what());
  }
}
