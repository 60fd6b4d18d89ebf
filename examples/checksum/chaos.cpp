#include "chaos.hpp"

#include <signal.h>
#include <unistd.h>
extern "C" {  // older C libraries forgot to say it
#include <sys/pidfd.h>
}

#include <algorithm>
#include <fstream>
#include <string>

namespace checksum {
namespace {

constexpr std::size_t kFilesPerKill = 200;

bool holds_task(const brood::PoolStats::Worker& worker) {
  return worker.state == "claimed" || worker.state == "running" || worker.state == "replying";
}

// A stop signal is on its way for a moment after it was sent.
bool wait_until_stopped(int pid) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string stat;
    if (!std::getline(file, stat)) return false;
    const std::size_t name_end = stat.rfind(')');  // "PID (NAME) STATE ..."
    if (stat.compare(name_end, 3, ") T") == 0) return true;
    ::usleep(10);
  }
  return false;
}

}  // namespace

bool Chaos::behind() const { return killed_ < files_ / kFilesPerKill; }

void Chaos::strike() {
  if (!behind()) return;
  for (const brood::PoolStats::Worker& worker : pool_.stats().workers) {
    if (!behind()) return;
    if (holds_task(worker) && kill_if_busy(worker.pid)) ++killed_;
  }
}

bool Chaos::is_busy(int pid) const {
  return std::ranges::any_of(pool_.stats().workers, [pid](const brood::PoolStats::Worker& worker) {
    return worker.pid == pid && holds_task(worker);
  });
}

// What a running worker does can't be told for sure: it may have ended its task by the time it is
// hit. So it is stopped, looked at, and only then killed. A pidfd never means another process that
// was given the same number later.
bool Chaos::kill_if_busy(int pid) {
  const int pidfd = ::pidfd_open(pid, 0);
  if (pidfd < 0) return false;
  bool killed = false;
  if (is_busy(pid) && ::pidfd_send_signal(pidfd, SIGSTOP, nullptr, 0) == 0) {
    const bool caught = wait_until_stopped(pid) && is_busy(pid);
    killed = ::pidfd_send_signal(pidfd, caught ? SIGKILL : SIGCONT, nullptr, 0) == 0 && caught;
  }
  ::close(pidfd);
  return killed;
}

}  // namespace checksum
