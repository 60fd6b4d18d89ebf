// The supervisor's doubts about what workers can write.
#pragma once

#include <cstdint>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/protocol/view.hpp"
#include "pool/supervisor/tenants.hpp"

namespace brood::pool {

// Threads: one, the supervisor's. Blocking: never. Ownership: none; what it is given must outlive
// it. Errors: none: what makes no sense ends as corrupt. Uses no heap.
// Death: of a worker is what this is for. Of the supervisor ends the pool.
class Audit {
 public:
  Audit(const PoolView& view, const Tenants& tenants, Settler& settler, IdleWorkers& idle) noexcept
      : view_(view), tenants_(tenants), settler_(settler), idle_(idle) {}

  // A dead worker may have written anywhere that workers can write: what makes no sense is put
  // right, what can't be checked is forgotten, and everybody looks again.
  void run() noexcept;
  // The same if the caller has asked for it, who has waited for long.
  void run_if_asked() noexcept;

 private:
  PoolView view_;
  const Tenants& tenants_;
  Settler& settler_;
  IdleWorkers& idle_;
  std::uint32_t answered_ = 0;  // of the caller's doubts
};

}  // namespace brood::pool
