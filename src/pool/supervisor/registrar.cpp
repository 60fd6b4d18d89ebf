#include "pool/supervisor/registrar.hpp"

#include <span>

#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "warden/protocol.hpp"

namespace brood::pool {

using shm::OwnerId;

std::optional<OwnerId> Registrar::claim() noexcept { return owners_.claim(sys::process_id()); }

void Registrar::give_back(std::optional<OwnerId> member) noexcept {
  if (member) owners_.release(*member);
}

bool Registrar::enter(std::int32_t pid, int pidfd, std::optional<OwnerId> member) noexcept {
  if (member) owners_.settle(*member, pid);
  return announce(pid, pidfd, member);
}

bool Registrar::announce(std::int32_t pid, int pidfd,
                         std::optional<OwnerId> member) const noexcept {
  warden::Announcement said;
  said.kind = warden::MemberKind::worker;
  said.pid = pid;
  said.parent_pid = sys::process_id();
  said.owner = member.value_or(OwnerId{});
  said.has_owner = member ? 1 : 0;
  return sys::send_packet(warden_socket_, std::as_bytes(std::span(&said, 1)), pidfd, false) == 0;
}

void Registrar::end_group(std::int32_t pid) const noexcept {
  sys::kill_group(pid);
  warden::Announcement said;
  said.request = warden::Request::end_children;
  said.parent_pid = pid;
  sys::send_packet(warden_socket_, std::as_bytes(std::span(&said, 1)), -1, false);
}

}  // namespace brood::pool
