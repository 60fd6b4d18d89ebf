// Stacks as people read them: brood/backtrace.hpp has the form.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace brood::start {

// Of a stack as shm/trace.hpp writes it, in whichever process; names as this one finds them in the
// modules' files. What makes no sense is left out.
//
// Threads: any. Blocking: for file reads; a name is looked up once, and kept. Errors: none: without
// memory it is empty.
std::string describe_trace(std::span<const std::byte> trace) noexcept;

}  // namespace brood::start
