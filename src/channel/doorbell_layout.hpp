// How a shared object tells processes that sleep on file descriptors.
//
// GLOSSARY
//   doorbell  a process's datagram socket for one object. Its name is made of the board's id and
//             the process's place in the family, so that whoever changes the object can find it
//   watcher   a process with a doorbell here
//   armed     some watcher has found the object not ready and may be asleep
//
// A BOARD   not armed --a watcher finds the object not ready--> armed --whoever makes it ready-->
//           not armed, and a datagram is on its way to every watcher
//
// The descriptor is level-triggered: while the object is ready there is a datagram in it, or on
// its way. Its owner takes the datagrams out when it finds the object not ready, arms the board,
// and looks once more; if the object has become ready meanwhile it rings its own doorbell.
// Who dies between disarming and ringing leaves the ringing to the warden: for every death of a
// process that held the object it rings if the object is ready, and else arms the board and looks
// once more.
//
// Memory ordering: the change of the object precedes the look at `armed`; arming precedes the
// watcher's second look at the object. One of them sees the other; all four are seq_cst. So is the
// look at the watchers: who armed the board may not be the one whose bit is new.
#pragma once

#include <cstdint>

#include "shm/object_layout.hpp"

namespace brood::channel {

struct DoorbellBoard {
  shm::SlotSet watchers;
  // Read by everyone who changes the object, seldom written.
  alignas(64) sys::Atomic<std::uint64_t> id;  // random; 0: there never was a watcher
  sys::Atomic<std::uint32_t> armed;
};
static_assert(sizeof(DoorbellBoard) == sizeof(shm::SlotSet) + 64);

}  // namespace brood::channel
