// A snapshot of a pool, read from its segment.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "brood/pool_options.hpp"
#include "pool/view.hpp"

namespace brood::pool {

// The name that the user gave the task in a record; empty if none.
using NameOf = std::function<std::string(std::uint32_t index)>;

PoolStats read_stats(const PoolView& view, std::size_t workers, const NameOf& name_of);

}  // namespace brood::pool
