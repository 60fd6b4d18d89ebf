// Running a task again that died.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <string>

namespace brood {

// Runs the task that is kept in `file` (PoolOptions::keep_failed), in this very process and thread:
// first what its pool's workers had run (preload, initializer, prepare), then the task, of map its
// one element. What it returns is dropped. What killed the worker is to be expected here, too.
//
// The task finds itself in a worker of its own: worker_index() is 0, task_seed() what it was,
// worker_state() begins empty and is destroyed at the end, stop_requested() is false. It has the
// directory, environment and limits of this process, and no time limit.
//
// Usually there is no need to call it: a program that calls init() does so when it is called with
// `--brood-replay FILE`, and exits: with 0 if the task came to its end, with 1 and the message on
// stderr if it threw. The tool `brood replay [--gdb] FILE` finds the program.
//
//   Threads:   any, one at a time in a process, not in a worker: Error.
//   Blocking:  as long as the task does.
//   Ownership: the file is only read.
//   Errors:    what the task throws, as it is. Before it is run: DecodeError (the file is damaged,
//              or none of these), StartError (it is of another build of the program, or its code is
//              not loaded), SystemError (it can't be read), std::bad_alloc.
//   Death:     of the task is that of this process.
void replay(const std::string& file);

}  // namespace brood
