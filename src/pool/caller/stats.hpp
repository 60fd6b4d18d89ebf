// A snapshot of a pool, read from its segment.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "brood/pool_options.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// What the task in a record is called; it may have ended meanwhile.
using NameOf = std::function<std::string(detail::TaskTicket task)>;

PoolStats read_stats(const PoolView& view, std::size_t workers, const NameOf& name_of);

}  // namespace brood::pool
