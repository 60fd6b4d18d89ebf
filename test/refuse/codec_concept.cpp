// EXPECT: Sendable
#include "brood/codec.hpp"

template <brood::Sendable T>
void send(const T&) {}

int main() {
  int n = 1;
  send(&n);
}
