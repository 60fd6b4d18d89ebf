// Another process, run one instruction at a time and killed after any of them.
#pragma once

#include <sched.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace brood::test {

// Tracer and traced on one processor: a step then costs a third of what it does across two.
// Undoes itself for the calling thread.
class OnOneProcessor {
 public:
  OnOneProcessor();
  ~OnOneProcessor();
  OnOneProcessor(const OnOneProcessor&) = delete;
  OnOneProcessor& operator=(const OnOneProcessor&) = delete;
  // Brings the main thread of another process here.
  void bring(int pid) const;

 private:
  cpu_set_t before_;
  cpu_set_t here_;
};

// A call that a stepped process is about to make, or has just made.
struct KernelCall {
  long number = 0;
  long arguments[6] = {};
  long result = 0;  // once made
};

// Traces the only thread of a process that is a fork of this one: code is read at its addresses
// here. Its children are not traced. All calls by one thread.
//
// A step is one instruction; a system call is one, too, however long it blocks. Signals are
// delivered as they come; entering a handler is a step of its own.
//
// The process dies with this object, and with the calling thread.
class Stepper {
 public:
  // Stops the process wherever it is. If it sleeps in a call, the first step is the rest of that.
  explicit Stepper(int pid);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  enum class Seen {
    step,    // the instruction was carried out
    asleep,  // the instruction is a system call that blocks; step() again goes on waiting for it
    mark,    // it has raised SIGSTOP for us to see (and does not stop): see mark()
    ended,   // it exited or was killed
  };
  Seen step();

  // Runs at full speed until it is about to carry out the instruction at `address` for the so many
  // -th time, which counts as so many instructions; one of `step`, `asleep`, `ended`. After
  // `asleep` only kill() is of use.
  Seen run_to(std::uint64_t address, long times, long instructions);
  // From now on the address of each instruction carried out is written down.
  void record(std::vector<std::uint64_t>* addresses) { addresses_ = addresses; }

  // Runs at full speed until it raises SIGSTOP. False if it ended or `guard` passed first.
  bool run_to_mark();

  // SIGKILL; returns when nothing of it runs any more. Its parent can reap it then, and has to if
  // that is us.
  void kill();
  // Lets it go on untraced.
  void release();

  [[nodiscard]] int pid() const { return pid_; }
  [[nodiscard]] bool ended() const { return ended_; }
  // Instructions carried out.
  [[nodiscard]] long taken() const { return taken_; }
  // Told of each system call after it was made (not of one that never returned).
  void on_kernel_call(std::function<void(const KernelCall&)> told) { told_ = std::move(told); }

 private:
  bool resume(int request);
  void release_call();
  Seen look(int status);
  Seen wait_for_blocking_call();

  int pid_;
  bool is_child_;
  bool ended_ = false;
  bool under_way_ = false;  // a step was begun and has not been seen to end
  int signal_ = 0;          // to be delivered with the next step
  long taken_ = 0;
  KernelCall call_;
  std::uint64_t address_ = 0;  // of the instruction being carried out
  std::vector<std::uint64_t>* addresses_ = nullptr;
  bool in_call_ = false;
  std::function<void(const KernelCall&)> told_;
};

// For the stepped process: a point that its tracer sees. Without a tracer it would stop here.
void mark();

// Where a process waits until its tracer has come. Made before the process.
class Gate {
 public:
  Gate();
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open() const;  // lets one through
  void pass() const;  // waits; ends the process if nobody is left to open

 private:
  int ends_[2];
};

}  // namespace brood::test
