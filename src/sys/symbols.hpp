// Names of functions, from the file of a module.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace brood::sys {

struct Symbol {
  std::string name;         // as the linker has it; empty: unknown
  std::uint64_t begin = 0;  // by the file
};

// The functions, static ones too, that cover `addresses`, in their order; no names if `path` is no
// module's file, or one with another build id than `build_id` (empty: any). The file is only read,
// and everything in it is input. Errors: std::bad_alloc.
std::vector<Symbol> find_symbols(const char* path, std::string_view build_id,
                                 std::span<const std::uint64_t> addresses);

// Opening anything else might wait, or do something.
bool is_plain_file(const char* path) noexcept;

// The file of the program; empty: unknown. Errors: std::bad_alloc.
std::string program_path();

}  // namespace brood::sys
