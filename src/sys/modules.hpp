// The program and the libraries that this process has loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace brood::sys {

struct Module {
  std::string name;         // as the loader knows it; empty: the program itself
  std::string build_id;     // that the linker gave it, its bytes; empty: none
  std::uint64_t begin = 0;  // of its memory
  std::uint64_t end = 0;
};

// The build id among a module's notes; empty: there is none.
std::string_view build_id_in(const char* notes, std::size_t bytes) noexcept;

// May throw std::bad_alloc.
std::vector<Module> loaded_modules();

// The function of that name in what is loaded; nullptr: there is none.
using AnyFunction = void (*)();
AnyFunction find_function(const char* name) noexcept;

}  // namespace brood::sys
