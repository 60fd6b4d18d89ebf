// A child that carries out one operation under the eyes of its tracer.
#pragma once

#include <functional>
#include <memory>

#include "support/every_instruction.hpp"
#include "support/stepper.hpp"

namespace brood::test {

// Never left behind: it ends with this object, and with the thread that made it.
class SteppedChild {
 public:
  // `body` prepares, calls mark(), carries out the operation and returns. Stops at the mark.
  explicit SteppedChild(const std::function<void()>& body);
  ~SteppedChild();
  SteppedChild(const SteppedChild&) = delete;
  SteppedChild& operator=(const SteppedChild&) = delete;

  // Through the whole operation, calling on_step(n) after the n-th instruction. Returns how many it
  // has; `path` learns the way.
  long step_through(Path& path, const std::function<void(long)>& on_step);
  // So many instructions on that way, or to the end of the operation.
  EveryInstruction::Run go(Path& path, long instructions);
  // To the end of the operation. False if it hangs.
  bool go_on();
  void kill() { stepper_->kill(); }
  [[nodiscard]] Stepper& stepper() { return *stepper_; }

 private:
  int pid_ = -1;
  bool at_end_ = false;  // of the operation
  std::unique_ptr<Stepper> stepper_;
};

}  // namespace brood::test
