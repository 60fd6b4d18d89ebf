#include "pool/task_name.hpp"

#include <cstddef>

#include "pool/kept_file.hpp"

namespace brood::pool {

namespace {

// Calls use(at) for each place that lies in no brackets, last first, until it returns true.
template <class Use>
void for_each_outside(std::string_view text, Use&& use) {
  std::size_t depth = 0;
  for (std::size_t at = text.size(); at-- > 0;) {
    const char c = text[at];
    if (c == ')' || c == '>' || c == ']' || c == '}') ++depth;
    if (depth == 0 && use(at)) return;
    if ((c == '(' || c == '<' || c == '[' || c == '{') && depth > 0) --depth;
    if (depth == 0 && c == '(' && use(at)) return;
  }
}

void remove_all(std::string& text, std::string_view part) {
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at)) {
    text.erase(at, part.size());
  }
}

}  // namespace

std::string plain_function_name(std::string_view demangled) {
  std::string name(demangled.substr(0, demangled.find(" [clone ")));
  remove_all(name, "(anonymous namespace)::");
  // What operators are called has brackets of its own.
  if (name.find("operator") != std::string::npos) return name;
  for_each_outside(name, [&](std::size_t at) {
    if (name[at] != '(') return false;
    name.resize(at);
    return true;
  });
  // The type that a template's instance returns.
  for_each_outside(name, [&](std::size_t at) {
    if (name[at] != ' ' || name.compare(at + 1, 5, "const") == 0) return false;
    name.erase(0, at + 1);
    return true;
  });
  return name;
}

std::string name_of_code(const detail::Thunk& thunk, const void* function) {
  if (function != nullptr) {
    const std::string name = plain_function_name(name_of_function(function).value_or(""));
    if (!name.empty()) return name;
  }
  return std::string(thunk.name);
}

}  // namespace brood::pool
