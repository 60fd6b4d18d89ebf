// What a task is called in errors and statistics.
#pragma once

#include <string>
#include <string_view>

#include "brood/detail/pool_core.hpp"
#include "brood/detail/thunk.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// A function's name without what people don't say: "ns::decode" of "int ns::(anonymous
// namespace)::decode<int>(int) [clone .isra.0]".
std::string plain_function_name(std::string_view demangled);

// Of the plain function that is called in the end, if there is one that has a name; else of the
// callable's type.
//
// Threads: any. Blocking: for file reads; a name is looked up once, and kept.
std::string name_of_code(const detail::Thunk& thunk, const void* function);
// The same of what a caller's task calls; for statistics it may have ended meanwhile.
std::string name_of_code(const PoolView& view, Records& records, detail::TaskTicket task);
// As its user has named it, else as its code.
std::string name_of_task(const PoolView& view, Records& records, detail::TaskTicket task);

}  // namespace brood::pool
