// EXPECT: brood: this type does not say how it is sent: give it serialize(ar)
#include "brood/codec.hpp"

class Hidden {  // trivially copyable, and yet a trap
 public:
  int* get() const { return p_; }

 private:
  int* p_ = nullptr;
};

int main() {
  Hidden value;
  return static_cast<int>(brood::encode(value).size());
}
