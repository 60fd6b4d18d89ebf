#include "warden/names.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>

#include "brood/error.hpp"
#include "sys/clock.hpp"
#include "sys/hexadecimal.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "warden/family.hpp"
#include "warden/object_space.hpp"

namespace brood::warden {

namespace {

constexpr std::int64_t kPauseNs = 1'000'000;
// How many names are looked at whenever one is made: more than one, so that those that others
// removed can't pile up.
constexpr std::size_t kLookAfter = 4;

template <class T>
std::span<const std::byte> bytes_of(const T& message) noexcept {
  return std::as_bytes(std::span(&message, 1));
}

bool is_automatic(std::string_view name) noexcept {
  constexpr std::string_view kPrefix = "psm_";
  return name.size() == kPrefix.size() + 8 && name.starts_with(kPrefix) &&
         name.find_first_not_of(sys::kHexadecimalDigits, kPrefix.size()) == std::string_view::npos;
}

bool sweep_one(const char* name, void* /*context*/) noexcept {
  if (!is_automatic(name)) return true;
  sys::MemoryFile there;
  // Before it is opened: a lease that somebody is to get must not be in the way of ours.
  if (sys::look_at_name(name, there) < 0 || !there.regular || !there.leased) return true;
  const sys::Fd file(sys::open_named_memory(name, false));
  if (!file || sys::take_last_lease(file.get()) < 0) return true;
  // Another sweeper may have been here first, and the name have been given anew.
  sys::MemoryFile mine;
  if (sys::look_at_file(file.get(), mine) < 0 || sys::look_at_name(name, there) < 0) return true;
  if (mine.leased && mine.identity == there.identity) sys::remove_name(name);
  return true;
}

// Removes the automatic names of families that are gone.
void sweep_names() noexcept { sys::for_each_name(sweep_one, nullptr); }

}  // namespace

// ---- the warden's side

bool NameTable::prepare() noexcept {
  entries_ = static_cast<Entry*>(sys::map_private(kMaxNames * sizeof(Entry)));
  return entries_ != nullptr;
}

void NameTable::hear(const NameMessage& message, const sys::Fd& line) noexcept {
  if (message.request == NameRequest::forget) {
    for (std::size_t i = 0; i < used_; ++i) {
      if (entries_[i].used() && entries_[i].file == message.file) forget(entries_[i]);
    }
    return;
  }
  if (message.request != NameRequest::give || !line || message.length > message.name.size()) {
    return;
  }
  NameAnswer answer;
  answer.error = -give({message.name.data(), message.length}, line);
  sys::send_packet(line.get(), bytes_of(answer), -1, false);
}

int NameTable::give(std::string_view name, const sys::Fd& line) noexcept {
  std::byte unused{};
  sys::Fd file;
  // First of all: what lay unread on the line when it is closed would cost the answer.
  if (sys::receive_packet(line.get(), std::span(&unused, 1), file) < 0) return -EINVAL;
  if (!sys::is_memory_name(name)) return -EINVAL;
  if (!file) return -EMFILE;
  sys::MemoryFile made;
  const int error = sys::look_at_file(file.get(), made);
  if (error < 0) return error;
  // One that has no name yet is nobody else's: no member can have us remove a stranger's.
  if (!made.regular || made.names != 0 || made.identity.inode == 0) return -EINVAL;
  if (!swept_) sweep_names();
  swept_ = true;
  look_after_some(kLookAfter);
  Entry* entry = free_entry();
  if (entry == nullptr) {
    look_after_some(kMaxNames);
    entry = free_entry();
  }
  if (entry == nullptr) return -EDQUOT;
  std::memcpy(entry->name.data(), name.data(), name.size());
  entry->name[name.size()] = '\0';
  const int linked = sys::give_name(file.get(), entry->name.data());
  if (linked < 0) return linked;
  entry->file = made.identity;
  if (made.leased) entry->lease = std::move(file);
  return 0;
}

NameTable::Entry* NameTable::free_entry() noexcept {
  while (first_free_ < used_ && entries_[first_free_].used()) ++first_free_;
  if (first_free_ == kMaxNames) return nullptr;
  if (first_free_ == used_) {
    std::construct_at(&entries_[first_free_]);
    ++used_;
  }
  return &entries_[first_free_];
}

void NameTable::look_after_some(std::size_t count) noexcept {
  for (std::size_t i = 0; i < count && i < used_; ++i) {
    next_ = next_ + 1 < used_ ? next_ + 1 : 0;
    Entry& entry = entries_[next_];
    if (entry.used() && !is_still_its_name(entry)) forget(entry);
  }
}

bool NameTable::is_still_its_name(const Entry& entry) noexcept {
  sys::MemoryFile there;
  const int error = sys::look_at_name(entry.name.data(), there);
  return error == 0 ? there.identity == entry.file : error != -ENOENT;
}

void NameTable::forget(Entry& entry) noexcept {
  entry.file = {};
  entry.lease.reset();
  first_free_ = std::min(first_free_, static_cast<std::size_t>(&entry - entries_));
}

void NameTable::remove_all() noexcept {
  for (std::size_t i = 0; i < used_; ++i) {
    Entry& entry = entries_[i];
    if (!entry.used()) continue;
    sys::MemoryFile there;
    if (sys::look_at_name(entry.name.data(), there) == 0 && there.identity == entry.file) {
      sys::remove_name(entry.name.data());
    }
    forget(entry);
  }
}

// ---- the members' side

namespace {

// What the warden answered, or why it could not be read; -EPIPE: it is gone.
int await_answer(const ObjectSpace& family, const sys::Fd& line) noexcept {
  for (;;) {
    const int readable = sys::becomes_readable(line.get(), sys::now_ns() + sys::kLookUpNs);
    // Also if the system refuses to wait: the answer comes all the same.
    if (readable != 0) {
      NameAnswer answer;
      sys::Fd unused;
      const long length =
          sys::receive_packet(line.get(), std::as_writable_bytes(std::span(&answer, 1)), unused);
      if (length == -EAGAIN) {
        if (family.warden_lost()) return -EPIPE;
        if (readable < 0) sys::sleep_ns(kPauseNs);
        continue;
      }
      if (length == sizeof answer) return -answer.error;
      if (length < 0 && !family.warden_lost()) return static_cast<int>(length);
      // It closed the line: it ended, or could not even take it.
      return family.warden_lost() ? -EPIPE : -EMFILE;
    }
    // Somebody may have copied the other end of the line and keep it open.
    if (family.warden_lost()) return -EPIPE;
  }
}

[[noreturn]] void throw_lost() {
  throw FamilyBroken("brood: the warden of this family of processes was killed");
}

// It may have been given, and its maker not have heard of it.
void take_back(const sys::Fd& file, const char* name) noexcept {
  sys::MemoryFile mine;
  sys::MemoryFile there;
  if (sys::look_at_file(file.get(), mine) == 0 && sys::look_at_name(name, there) == 0 &&
      mine.identity == there.identity) {
    sys::remove_name(name);
  }
}

}  // namespace

int give_name(const sys::Fd& file, std::string_view name) {
  if (ObjectSpace::current() == nullptr) Family::join();
  const ObjectSpace* family = ObjectSpace::current();
  if (family == nullptr || family->warden_lost()) throw_lost();
  sys::Fd ends[2];
  int error = sys::packet_socket_pair(ends);
  if (error < 0) return error;
  const std::byte packet{};
  error = sys::send_packet(ends[0].get(), std::span(&packet, 1), file.get(), false);
  if (error < 0) return error;
  NameMessage wish;
  wish.length = static_cast<std::uint32_t>(name.size());
  std::memcpy(wish.name.data(), name.data(), name.size());
  error = sys::send_packet(family->socket(), bytes_of(wish), ends[1].get(), true);
  ends[1].reset();
  if (error < 0 && !family->warden_lost()) return error;
  error = error < 0 ? -EPIPE : await_answer(*family, ends[0]);
  if (error != 0 && error != -EEXIST) take_back(file, wish.name.data());
  if (error == -EPIPE) throw_lost();
  return error;
}

void forget_name(const sys::FileIdentity& file) noexcept {
  const ObjectSpace* family = ObjectSpace::current();
  if (family == nullptr) return;
  NameMessage message;
  message.request = NameRequest::forget;
  message.file = file;
  sys::send_packet(family->socket(), bytes_of(message), -1, true);
}

}  // namespace brood::warden
