// The caller keeps what tasks were called with that ended with their worker.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "pool/caller/kept_file.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// A task or element that died, and all that is known of it.
struct DeadTask {
  detail::TaskTicket ticket;
  std::uint32_t element = 0;           // of its chunk
  std::optional<std::uint64_t> index;  // of the range, if that is known
  const Death& death;                  // with the task's name
  bool has_handles = false;
};

// Threads: any; keep() and forget() lock. Blocking: for the disk, and for the lock meanwhile.
// Ownership: the files are the user's from the moment they have their names. Errors: StartError
// where the directory can't be written to; later a task that can't be kept is a warning in the log.
// Death: leaves whole files, or none (sys/new_file.hpp).
class KeptTasks {
 public:
  // Makes the directory. `setup` must outlive it.
  KeptTasks(const std::string& directory, std::string pool, const SetupToSend& setup);

  // The path of the task's file, which is written if it is not there yet; empty: it can't be kept.
  std::string keep(const DeadTask& dead, const shm::TaskRequest& request, const Records& records,
                   std::uint64_t seed) noexcept;
  // Its record is about to be another's.
  void forget(detail::TaskTicket ticket) noexcept;
  [[nodiscard]] bool knows(detail::TaskTicket ticket, std::uint32_t element) noexcept;

 private:
  class Packing;

  std::string write(const DeadTask& dead, const shm::TaskRequest& request, const Records& records,
                    std::uint64_t seed);
  const KeptCall& function_of(const void* function);
  void warn(const DeadTask& dead, std::string_view why) noexcept;

  std::string directory_;  // from the root on
  std::string pool_;
  const SetupToSend& setup_;
  std::mutex mutex_;  // guards all that follows
  struct Files {
    std::uint32_t generation = 0;                      // of the record
    std::map<std::uint32_t, std::string> of_elements;  // empty: not kept
  };
  std::unordered_map<std::uint32_t, Files> kept_;  // by the record's index
  std::set<std::string> told_;                     // names of tasks that are known to have handles
  std::unordered_map<const void*, KeptCall> functions_;  // function and function_name only
};

}  // namespace brood::pool
