// Processes that are started again when they fail, and ended when they give no sign of life
// (ProcessOptions::restart and hang_timeout).
//
//   host ── starts ──► keeper ── clones ──► incarnation: runs the user's function
//        ── orders ──►        ◄── beats ───              (the next one, when it has failed)
//        ◄─── news ───
//
// The keeper is what the start method makes; it stays as it was then, so that every incarnation
// begins as the process would have begun. It waits for what comes first of its incarnation's end,
// an order, the host's end, and the moment when a sign of life is overdue; and ends as the last
// incarnation did. The host sees one process.
//
// Whoever dies: with the keeper, the kernel ends its incarnation (and so does the warden, to which
// it is a daemon of the keeper's). With the host, the warden ends a keeper that is a daemon; any
// other starts nothing any more. What the host does not know is what an order or news was on the
// way for, and both are sent once: an order to a keeper that has ended does nothing, and how it
// ended is its own status as well.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "brood/process_options.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "warden/protocol.hpp"

namespace brood::start {

struct Surroundings;

// What the options ask a keeper for.
struct Keeping {
  bool wanted = false;
  std::uint32_t restarts = 0;          // at most
  std::optional<std::int64_t> per_ns;  // in so long; else in all
  std::int64_t backoff_ns = 0;
  std::optional<std::int64_t> hang_ns;
};
// Throws StartError naming the option that can't be.
Keeping keeping_of(const ProcessOptions& options);

// What the keeper needs to know.
struct KeptLife {
  const Keeping& keeping;
  const std::string& name;
  int line = -1;                         // to the host
  const Surroundings* limits = nullptr;  // each incarnation takes them on; nullptr: it has them
};
// Makes the calling process, which is all that the process was to be, a keeper. Returns in each
// incarnation, which is a member of the family then, and never in the keeper. Without the means to
// make the first, the host is told on the line, and the process ends.
void keep(const KeptLife& life) noexcept;

// A keeper as the host sees it. Threads: any. Blocking: await_change(). Ownership: of the line.
// Errors: none. Death: of the keeper leaves what it told last.
class KeptProcess {
 public:
  KeptProcess(sys::Fd line, int pid) : line_(std::move(line)) { known_.pid = pid; }

  struct Known {
    int pid = 0;  // of the incarnation, the last one if none runs
    unsigned restarts = 0;
    bool runs = true;
    bool hung = false;                     // the last one to end
    std::optional<sys::ExitStatus> ended;  // for good
    sys::UsageAtEnd usage_before;          // of the incarnations that have ended
  };
  Known look() noexcept;
  // Until there is news, or the deadline.
  void await_change(std::int64_t deadline_ns) const noexcept;
  void hear(const warden::LineMessage& news) noexcept;
  // A signal for the incarnation, if one runs. 0 or -errno.
  int order(int signal, bool to_end) const noexcept;
  // In a forked copy of the host: the line is not ours.
  void abandon() noexcept { line_.release(); }

 private:
  void take(const warden::LineMessage& news) noexcept;

  sys::Fd line_;
  std::mutex mutex_;  // guards what follows
  Known known_;
};

}  // namespace brood::start
