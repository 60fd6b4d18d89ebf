#include "pool/caller/maker.hpp"

#include <string>

#include "brood/error.hpp"
#include "pool/protocol/worker_context.hpp"

namespace brood::pool {

void Maker::refuse() {
  if (is_worker()) throw_pool_of_program();
  throw Error("brood: this pool belongs to the process that made it; make one of your own");
}

void throw_pool_of_program(const char* unless) {
  throw Error(
      std::string("brood: a task can't use the pools of its program: make one of its own inside "
                  "the task") +
      unless);
}

}  // namespace brood::pool
