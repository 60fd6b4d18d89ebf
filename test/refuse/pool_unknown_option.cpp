// EXPECT: PoolOptions
// BEFORE: PoolCore
#include "brood/brood.hpp"

int main() { brood::Pool pool({.workers = 1, .max_waiting = 2}); }
