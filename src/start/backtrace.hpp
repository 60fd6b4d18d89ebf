// Stacks as people read them: brood/backtrace.hpp has the form.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace brood::start {

// Of a stack as shm/trace.hpp writes it, in whichever process; names as this one finds them in the
// modules' files. What makes no sense is left out.
//
// Threads: any. Blocking: for file reads; a name is looked up once, and kept. Errors: none: without
// memory it is empty.
std::string describe_trace(std::span<const std::byte> trace) noexcept;

// Of the function that begins at `code`, a place in this process, as people write it; empty: its
// module has no names; nullopt: this is in the midst of one. The same, but throws std::bad_alloc.
std::optional<std::string> name_of_function(const void* code);

}  // namespace brood::start
