// What a finished task or element has to show, read from memory that anyone could have written.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// Of a single task, and of an element of map. The task has ended.
// Errors: a reply that makes no sense is Kind::corrupt.
detail::TaskReply read_reply(const PoolView& view, const Records& records,
                             detail::TaskTicket task) noexcept;
detail::TaskReply read_element_reply(const PoolView& view, const Records& records,
                                     detail::TaskTicket task, std::uint32_t index) noexcept;
// All cells of a task of elements that has ended, if each holds a value; empty otherwise.
std::span<const std::byte> read_values_in_cells(const PoolView& view, const Records& records,
                                                detail::TaskTicket task) noexcept;

// What a reply of Kind::died says, without task and element. `memory_limit_bytes` is the pool's.
Death read_death(std::span<const std::byte> bytes, std::uint64_t memory_limit_bytes);
// What the bits of shm::kOutOfMemory and its like say.
void tell_causes(std::uint32_t causes, std::uint64_t memory_limit_bytes, Death& death) noexcept;

// Throws what the reply of the task of that name stands for, which is neither a value nor a death.
[[noreturn]] void throw_reply(const PoolView& view, detail::TaskTicket task,
                              const detail::TaskReply& reply, std::string name);
// For a record that was overwritten.
[[noreturn]] void throw_overwritten();

}  // namespace brood::pool
