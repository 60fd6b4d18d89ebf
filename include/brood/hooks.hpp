// Actions at the end of a process and at the beginning of its children.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <functional>

namespace brood {

// Calls `action` when this process ends in an orderly way: the host at the end of main() or by
// exit(), a child of brood's after its function has returned (a pool worker, when its pool is
// closed) or by exit(); never by _exit() or a death. Last registered first, in one order with the
// handlers of std::atexit and the destructors of static objects. Children run what they register
// themselves, never what their parent did; nor does a child that the host forks by itself.
//
//   Threads:   any, also while others start processes.
//   Blocking:  for moments, while another thread forks.
//   Ownership: the action is destroyed after its call.
//   Errors:    Error if there is nothing to call, std::bad_alloc. What the action throws is logged
//              as an error (log.hpp), and the next one runs.
//   Death:     nothing runs.
void at_exit(std::function<void()> action);

// Calls `action` in each child that this process starts as a copy of itself (start method fork,
// pool workers), before anything of the user's runs there: in the order of registration, in the
// child. A child has the actions of its parent for its own children too, so an action that
// registers itself again doubles with each generation; a second registration is a second call.
//
//   Threads:   any. Actions run in the only thread of the child.
//   Blocking:  no.
//   Ownership: the action is kept for the rest of the program.
//   Errors:    as at_exit().
//   Death:     a child that an action kills has died before its function began.
void after_fork(std::function<void()> action);

}  // namespace brood
