#include "warden/custody.hpp"

#include <cerrno>
#include <span>

#include "sys/memory.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {

namespace {

void answer(const sys::Fd& line, int error, int fd) noexcept {
  CustodyAnswer said;
  said.error = error;
  sys::send_packet(line.get(), std::as_bytes(std::span(&said, 1)), fd, false);
}

bool stands_for_descriptor(shm::BlockRef object, shm::Objects& objects) noexcept {
  const shm::ObjectPlace place = objects.find(object);
  return place && place.kind == shm::ObjectKind::descriptor;
}

}  // namespace

bool Custody::prepare() noexcept {
  entries_ = static_cast<Entry*>(sys::map_private(kEntries * sizeof(Entry)));
  return entries_ != nullptr;
}

Custody::Entry* Custody::find(shm::BlockRef object) noexcept {
  for (std::size_t i = 0; i < used_; ++i) {
    if (entries_[i].object == object) return &entries_[i];
  }
  return nullptr;
}

int Custody::keep(shm::BlockRef object, sys::Fd fd, shm::Objects& objects) noexcept {
  if (!stands_for_descriptor(object, objects)) return ENOENT;
  if (find(object) != nullptr) return EEXIST;
  Entry* entry = find({});
  if (entry == nullptr) {
    if (used_ == kEntries) return ENFILE;
    entry = &entries_[used_++];
  }
  *entry = {object, fd.release()};
  return 0;
}

void Custody::take(shm::BlockRef object, const sys::Fd& line, shm::Objects& objects) noexcept {
  if (!object) return answer(line, ENOENT, -1);
  CustodyAnswer said;
  sys::Fd fd;
  const long length =
      sys::receive_packet(line.get(), std::as_writable_bytes(std::span(&said, 1)), fd);
  // The kernel drops what this process has no room for.
  if (length != sizeof said || !fd) return answer(line, EMFILE, -1);
  answer(line, keep(object, std::move(fd), objects), -1);
}

void Custody::give(shm::BlockRef object, const sys::Fd& line, shm::Objects& objects) noexcept {
  const Entry* entry = object ? find(object) : nullptr;
  if (entry == nullptr || !stands_for_descriptor(object, objects)) return answer(line, ENOENT, -1);
  answer(line, 0, entry->fd);
}

void Custody::drop_ended(shm::Objects& objects) noexcept {
  for (std::size_t i = 0; i < used_; ++i) {
    Entry& entry = entries_[i];
    if (!entry.object || stands_for_descriptor(entry.object, objects)) continue;
    sys::close_fd(entry.fd);
    entry = {{}, -1};
  }
  while (used_ > 0 && !entries_[used_ - 1].object) --used_;
}

}  // namespace brood::warden
