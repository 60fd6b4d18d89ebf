// Wherever a worker has a place while it lives.
#pragma once

#include "pool/protocol/view.hpp"
#include "pool/supervisor/registrar.hpp"
#include "pool/supervisor/seats.hpp"
#include "pool/supervisor/stderr_relay.hpp"
#include "pool/supervisor/tenants.hpp"
#include "shm/owner_table.hpp"

namespace brood::pool {

// What Births takes for a worker, DeathWatch looks at, and Undertaker gives back: all of them, and
// nobody else, have to think of each.
//
// Threads: one, the supervisor's. Ownership: none; what it refers to must outlive it.
struct Places {
  PoolView view;           // its desk, entry and notes
  shm::OwnerTable owners;  // its slot
  Tenants& tenants;        // the book of them
  Seats& seats;            // where it works
  Registrar& registrar;    // in the family
  StderrRelay& relay;      // its stderr's pipe
};

}  // namespace brood::pool
