#include "support/stepped_child.hpp"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace brood::test {

SteppedChild::SteppedChild(const std::function<void()>& body) {
  const Gate gate;
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    gate.pass();
    body();
    mark();
    for (;;) pause();
  }
  stepper_ = std::make_unique<Stepper>(pid_);
  gate.open();
  if (!stepper_->run_to_mark()) throw std::runtime_error("a stepped child has no operation");
}

SteppedChild::~SteppedChild() {
  stepper_.reset();
  waitpid(pid_, nullptr, 0);
}

long SteppedChild::step_through(Path& path, const std::function<void(long)>& on_step) {
  std::vector<std::uint64_t> addresses;
  stepper_->record(&addresses);
  long taken = 0;
  while (stepper_->step() == Stepper::Seen::step) on_step(++taken);
  EXPECT_FALSE(stepper_->ended());
  stepper_->record(nullptr);
  path.learn(std::move(addresses));
  at_end_ = true;
  return taken;
}

EveryInstruction::Run SteppedChild::go(Path& path, long instructions) {
  const EveryInstruction::Run run = path.go(*stepper_, instructions, [] { return false; });
  at_end_ = run.at_end;
  EXPECT_FALSE(stepper_->ended());
  return run;
}

bool SteppedChild::go_on() { return at_end_ || stepper_->run_to_mark(); }

}  // namespace brood::test
