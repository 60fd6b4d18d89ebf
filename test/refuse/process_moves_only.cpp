// EXPECT: brood: this argument can be moved but not copied: give it away by std::move(), or pass a
#include "brood/brood.hpp"

void talk(brood::Connection) {}

int main() {
  auto [ours, theirs] = brood::Pipe();
  brood::Process p(talk, theirs);
}
