// Locks between processes: alone, and against others, beside robust pthread mutexes in shared
// memory and CPython's.
#include <brood/brood.hpp>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr int kAlone = 2'000'000;
constexpr int kAgainst = 400'000;  // by all processes together

double per_operation_ns(Clock::time_point start, int operations) {
  return seconds_since(start) / operations * 1e9;
}

// A robust mutex that processes share.
class SharedMutex {
 public:
  SharedMutex()
      : mutex_(static_cast<pthread_mutex_t*>(
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex_, &attributes);
  }
  ~SharedMutex() { ::munmap(mutex_, 4096); }
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void lock() const {
    if (pthread_mutex_lock(mutex_) == EOWNERDEAD) pthread_mutex_consistent(mutex_);
  }
  void unlock() const { pthread_mutex_unlock(mutex_); }

 private:
  pthread_mutex_t* mutex_;
};

template <class L>
void lock_often(const L& lock, int times) {
  for (int i = 0; i < times; ++i) {
    lock.lock();
    lock.unlock();
  }
}

template <class L>
double alone_ns() {
  const L lock;
  const auto start = Clock::now();
  lock_often(lock, kAlone);
  return per_operation_ns(start, kAlone);
}

template <class L>
double against_ns(int processes) {
  const L lock;
  const auto start = Clock::now();
  std::vector<brood::Process> children;
  for (int i = 0; i < processes; ++i) {
    children.emplace_back(brood::forked, [&] { lock_often(lock, kAgainst / processes); });
    children.back().start();
  }
  for (brood::Process& child : children) child.join();
  return per_operation_ns(start, kAgainst);
}

double python_ns(const std::string& job, int count, int processes) {
  const std::string command = std::string(BROOD_BENCH_PYTHON) + " " + BROOD_BENCH_DIR +
                              "/cpython_locks.py " + job + " " + std::to_string(count) + " " +
                              std::to_string(processes);
  std::FILE* out = ::popen(command.c_str(), "r");
  double result = 0;
  if (out == nullptr || std::fscanf(out, "%lf", &result) != 1) result = 0;
  if (out != nullptr) ::pclose(out);
  return result;
}

}  // namespace

int main() {
  bench::Comparison alone("lock and unlock, nobody else", "ns", false);
  alone.add("brood::Lock", alone_ns<brood::Lock>);
  alone.add("brood::RLock", alone_ns<brood::RLock>);
  alone.add("robust pthread mutex in shared memory", alone_ns<SharedMutex>);
  alone.add("CPython multiprocessing.Lock", [] { return python_ns("alone", kAlone / 10, 1); });
  alone.run(7);
  for (const int processes : {2, 4}) {
    bench::Comparison against(
        "lock and unlock, " + std::to_string(processes) + " processes against each other",
        "ns of all together", false);
    against.add("brood::Lock", [processes] { return against_ns<brood::Lock>(processes); });
    against.add("robust pthread mutex in shared memory",
                [processes] { return against_ns<SharedMutex>(processes); });
    against.add("CPython multiprocessing.Lock",
                [processes] { return python_ns("against", kAgainst / 4, processes); });
    against.run(5);
  }
}
