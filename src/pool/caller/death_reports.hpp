// What the caller makes of the deaths of tasks: what its user is told, and what is kept of them,
// also of those that nobody asks about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "pool/caller/kept_tasks.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"

namespace brood::pool {

// Threads: any. Blocking: for the disk, where tasks are kept. Ownership: of the records of tasks
// that died and were given up, until they are kept; what it is given must outlive it.
// Errors: what can't be kept is lost, with a warning in the log.
// Death: of workers is what this is for; what they wrote is bounded before use.
class DeathReports {
 public:
  // `kept` is nullptr where nothing is to be kept. Before the first task.
  DeathReports(const PoolView& view, Records& records, const SetupToSend& setup,
               std::unique_ptr<KeptTasks> kept);

  // What a reply of Kind::died says of the task, or of element `index` of the range.
  [[nodiscard]] Death report(detail::TaskTicket task, const detail::TaskReply& reply,
                             std::size_t index) const;

  // Keeps tasks that died and are given up, with no lock held: whoever is told by the log may use
  // us.
  void keep_unseen() noexcept {
    if (kept_ != nullptr) keep_set_aside();
  }
  // The last chance for those that nobody asked for.
  void finish() noexcept;

  // What make() gives. Tasks that died since they were given up hold memory until they are kept.
  template <class Make>
  std::invoke_result_t<Make&> with_room(Make&& make) {
    if (kept_ == nullptr) return make();
    try {
      const auto made = make();
      keep_set_aside();
      return made;
    } catch (const ArenaFull&) {
      keep_set_aside();
    }
    return make();
  }

 private:
  template <class Use>
  bool for_dead(detail::TaskTicket task, Use&& use) const;
  [[nodiscard]] bool is_wanted(detail::TaskTicket task) const noexcept;
  [[nodiscard]] Death read(const detail::TaskReply& reply) const;
  std::string keep(const DeadTask& dead) const noexcept;
  void keep_set_aside() noexcept;
  void keep_all_of(detail::TaskTicket task) const noexcept;

  PoolView view_;
  Records& records_;
  const std::uint64_t memory_limit_bytes_;  // of the workers
  std::unique_ptr<KeptTasks> kept_;
};

}  // namespace brood::pool
