// Where an exception was thrown, told while the frames that threw it are still there.
//
// Unwinding has two phases: who catches is searched first, and nothing is destroyed until somebody
// was found. In the first phase each catch clause's type is asked whether it takes the exception;
// NoException's answer is always no, and to be asked is what tells of the throw. So nothing is
// intercepted that others intercept too, and what is not thrown costs nothing.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "sys/stack.hpp"

namespace brood::sys {

// Nothing is of this type. Its destructor is nowhere, so that no compiler makes a type_info of its
// own for it: that is in no_exception.cpp.
class [[gnu::visibility("hidden")]] NoException {
 public:
  virtual ~NoException();
};

// Calls `call`, and for what it throws `handle`, as in a catch (...) clause. The hook of this
// thread is called before, when the stack is still that of the throw; not for what leaves `handle`.
template <class Call, class Handle>
void try_watched(Call&& call, Handle&& handle) {
  try {
    call();
  } catch (const NoException&) {
    std::abort();
  } catch (...) {
    handle();
  }
}

// nullptr: none. Called for each throw and rethrow that a try_watched() of this thread will catch.
struct ThrowHook {
  void (*on_throw)(void* context) noexcept = nullptr;
  void* context = nullptr;
};
ThrowHook& throw_hook() noexcept;

// For a hook: as walk_stack() from what threw or rethrew on, without the frames of the runtime.
// The last is the one before that in whose memory `end` lies.
void walk_thrown_stack(VisitFrame visit, void* context, std::uintptr_t end) noexcept;

}  // namespace brood::sys
