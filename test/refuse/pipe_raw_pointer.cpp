// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include "brood/pipe.hpp"

int main() {
  auto [ours, theirs] = brood::Pipe();
  int n = 1;
  ours.send(&n);
}
