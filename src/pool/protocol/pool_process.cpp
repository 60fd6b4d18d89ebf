#include "pool/protocol/pool_process.hpp"

#include <array>

#include "pool/protocol/view.hpp"
#include "start/child_main.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"

namespace brood::pool {

void become_pool_process(const SupervisorStart& start, int supervisor_pid,
                         std::optional<shm::OwnerId> member, int line) noexcept {
  sys::die_with_parent();
  // The supervisor may have died before that took effect.
  if (sys::parent_id() != supervisor_pid) sys::exit_now(0);

  const warden::Family& family = *warden::Family::inherited();
  const auto& [directory, output, errors] = start.descriptors;
  const std::array keep = {start.segment_fd,
                           family.segment_fd(),
                           family.objects_fd(),
                           family.socket(),
                           family.warden_pidfd(),
                           directory,
                           output,
                           errors,
                           line};
  start::become_child({.process_name = start.process_name,
                       .close_fds = true,
                       .keep = keep,
                       .host_handles_terminal = true});
  // Its children are of its group, and end with it.
  sys::lead_process_group();
  if (start.fd_limit != 0) sys::set_fd_limit(start.fd_limit);
  // From here on this process can write only what a worker has to.
  const PoolGeometry& geometry = start.view.geometry();
  for (const Zone& zone : {geometry.caller_zone, geometry.supervisor_zone}) {
    if (sys::make_read_only(start.view.at(zone.offset), zone.bytes) < 0) sys::exit_now(1);
  }
  warden::Family::remain_in_worker(member.value_or(shm::OwnerId{}), member.has_value());
}

}  // namespace brood::pool
