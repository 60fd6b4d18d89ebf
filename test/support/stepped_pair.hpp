// Two children amid the same operation, of which one is killed at each of its instructions.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "support/every_instruction.hpp"
#include "support/stepped_child.hpp"
#include "support/stepper.hpp"

namespace brood::test {

// A test's part: what the operation is, and what must be true after a death in it. The functions
// fail the test by GoogleTest's expectations.
class SteppedPair {
 public:
  SteppedPair() = default;
  virtual ~SteppedPair() = default;
  SteppedPair(const SteppedPair&) = delete;
  SteppedPair& operator=(const SteppedPair&) = delete;

  // First one child alone, whose memory is copied and judged after each instruction as if it had
  // died there. Then real deaths at a sample of them, each beside another child that stops amid the
  // operation, too, and goes on after the first one's burial.
  void sweep(EveryInstruction& every);

 protected:
  enum class Victim { first, other };

  virtual void prepare() = 0;
  // In a child: whatever comes before, mark(), the operation.
  virtual void operate(Victim who) = 0;
  // Of the memory as it is now, `fresh` if it was just prepared: works on a copy.
  virtual void judge_copy(bool fresh) = 0;
  // As the warden does after the first one's death.
  virtual void bury_first() = 0;
  // Both are dead.
  virtual void judge() = 0;

 private:
  void watch_every_instruction(EveryInstruction& every);
  void kill_beside(EveryInstruction& every, long n, long m);

  Path path_;
  OnOneProcessor here_;
};

// A T in memory that children share, and room for a copy of it.
template <class T>
class RealAndCopy {
 public:
  RealAndCopy()
      : memory_(mmap(nullptr, 2 * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                     0)) {
    new (memory_) T[2]{};
  }
  ~RealAndCopy() { munmap(memory_, 2 * sizeof(T)); }
  RealAndCopy(const RealAndCopy&) = delete;
  RealAndCopy& operator=(const RealAndCopy&) = delete;

  [[nodiscard]] T& real() { return static_cast<T*>(memory_)[0]; }
  [[nodiscard]] T& copy_of_real() {
    T& copy = static_cast<T*>(memory_)[1];
    std::memcpy(static_cast<void*>(&copy), static_cast<const void*>(&real()), sizeof(T));
    return copy;
  }

 private:
  void* memory_;
};

}  // namespace brood::test
