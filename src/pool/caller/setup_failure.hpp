// Why a pool's set-up has failed, as its caller is told.
#pragma once

#include <cstdint>
#include <exception>

#include "pool/protocol/view.hpp"

namespace brood::pool {

// The InitializerFailed that the condition broken_setup stands for.
std::exception_ptr setup_failure(const PoolView& view, std::uint64_t memory_limit_bytes) noexcept;

}  // namespace brood::pool
