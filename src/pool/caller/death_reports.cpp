#include "pool/caller/death_reports.hpp"

#include <optional>

#include "pool/caller/reply.hpp"
#include "pool/caller/task_name.hpp"

namespace brood::pool {

using detail::TaskReply;
using detail::TaskTicket;

DeathReports::DeathReports(const PoolView& view, Records& records, const SetupToSend& setup,
                           std::unique_ptr<KeptTasks> kept)
    : view_(view),
      records_(records),
      memory_limit_bytes_(setup.setup.memory_limit_bytes),
      kept_(std::move(kept)) {
  if (kept_ == nullptr) return;
  records_.set_aside([this](TaskTicket task) { return is_wanted(task); });
}

Death DeathReports::report(TaskTicket task, const TaskReply& reply, std::size_t index) const {
  Death death = read(reply);
  death.task = name_of_task(view_, records_, task);
  death.index = index;
  if (kept_ != nullptr) {
    const bool has_handles = records_.traits_of(task.index).has_handles;
    death.kept = keep({task, reply.element, index, death, has_handles});
  }
  return death;
}

Death DeathReports::read(const TaskReply& reply) const {
  return read_death(reply.bytes, memory_limit_bytes_);
}

std::string DeathReports::keep(const DeadTask& dead) const noexcept {
  return kept_->keep(dead, view_.request(dead.ticket.index), records_, view_.caller().seed);
}

// Calls `use(element, reply)` for each element of a task that is done and died, until it returns
// true; whether it did.
template <class Use>
bool DeathReports::for_dead(TaskTicket task, Use&& use) const {
  const shm::TaskRequest& request = view_.request(task.index);
  const auto look = [&](std::uint32_t element, const TaskReply& reply) {
    return reply.kind == TaskReply::Kind::died && use(element, reply);
  };
  if (!request.cells) return look(0, read_reply(view_, records_, task));
  for (std::uint32_t i = 0; i < request.count; ++i) {
    if (look(i, read_element_reply(view_, records_, task, i))) return true;
  }
  return false;
}

// Its record is to be freed, and its death may be one that nobody has asked about.
bool DeathReports::is_wanted(TaskTicket task) const noexcept {
  return for_dead(task, [](std::uint32_t /*element*/, const TaskReply& /*reply*/) { return true; });
}

void DeathReports::finish() noexcept {
  if (kept_ == nullptr) return;
  records_.collect();
  keep_set_aside();
}

void DeathReports::keep_set_aside() noexcept {
  for (const TaskTicket task : records_.take_set_aside()) {
    keep_all_of(task);
    kept_->forget(task);
    records_.free_record(task);
  }
}

void DeathReports::keep_all_of(TaskTicket task) const noexcept {
  try {
    const TaskTraits traits = records_.traits_of(task.index);
    for_dead(task, [&](std::uint32_t element, const TaskReply& reply) {
      if (kept_->knows(task, element)) return false;
      Death death = read(reply);
      death.task = traits.name.empty() ? name_of_code(view_, records_, task) : traits.name;
      keep({task, element, std::nullopt, death, traits.has_handles});
      return false;
    });
  } catch (...) {
    // Without memory it is lost.
  }
}

}  // namespace brood::pool
