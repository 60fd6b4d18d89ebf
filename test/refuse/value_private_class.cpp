// EXPECT: this type does not say how it is sent
#include "brood/value.hpp"

class Money {
 public:
  int cents() const { return cents_; }

 private:
  int cents_ = 0;
};

int main() {
  brood::Value<Money> money;
  return money.get().cents();
}
