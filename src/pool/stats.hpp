// A snapshot of a pool, read from its segment.
#pragma once

#include "brood/pool.hpp"
#include "pool/view.hpp"

namespace brood::pool {

PoolStats read_stats(const PoolView& view, std::size_t workers);

}  // namespace brood::pool
