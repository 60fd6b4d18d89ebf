#include "shared/waiting.hpp"

#include "brood/error.hpp"

namespace brood::shared {

void require_warden() {
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space != nullptr && !space->warden_lost()) return;
  throw FamilyBroken("brood: the warden of this family of processes was killed");
}

}  // namespace brood::shared
