#include "pool/caller/workers_code.hpp"

#include "brood/error.hpp"

namespace brood::pool {

void WorkersCode::refuse_task() {
  throw NotSendable(
      "brood: the code of this task was loaded after the pool was made: load it first, or make "
      "the pool later (one that is a global variable is made before main(), when the program's "
      "own code is not known yet: make it in main(), or as a static variable of a function)");
}

void WorkersCode::refuse_function() {
  throw NotSendable(
      "brood: the function to call was loaded after the pool was made: load its code first, or "
      "make the pool later");
}

}  // namespace brood::pool
