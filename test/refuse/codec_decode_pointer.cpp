// EXPECT: brood: a raw pointer cannot be sent to another process: send the value
#include <vector>

#include "brood/codec.hpp"

int main() { return *brood::decode<std::vector<int*>>({}).front(); }
