// Where code lies in processes that loaded the same program at other addresses.
//
// The family has one common layout: that of its founder, whose copies have it too. A process that
// was spawned translates: addresses that it sends to the common layout, those it gets from it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace brood::start {

struct ModuleImage {
  std::string name;
  std::string build_id;
  std::uint64_t begin = 0;  // in the common layout
  std::uint64_t end = 0;
};

// What a process has to know to understand code of the family.
struct CodeLayout {
  std::vector<ModuleImage> modules;
  std::vector<std::uint64_t> thunks;  // of each number, a hash of its name
  std::uint64_t seal_key_first = 0;
  std::uint64_t seal_key_second = 0;
};

// Of this process. Threads: any. Errors: std::bad_alloc.
CodeLayout code_layout();

// In a process that was just spawned: from here on it speaks the family's layout. Returns how many
// numbers of code mean the same here as there; these are the numbers from 1 on. Throws StartError
// if the program itself is another.
std::uint32_t adopt_code_layout(const CodeLayout& layout);

// Of a thunk.
std::uint64_t hash_of_name(std::string_view name) noexcept;

// Throw DecodeError for an address in no module that both have.
std::uint64_t to_common_address(std::uint64_t own);
std::uint64_t to_own_address(std::uint64_t common);

}  // namespace brood::start
