#include "pool/caller/task_name.hpp"

#include <atomic>
#include <cstddef>

#include "pool/caller/kept_file.hpp"

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

std::string name_of_code(const PoolView& view, Records& records, detail::TaskTicket task) {
  // For statistics the task may have ended since, and its record be that of one being written.
  const std::atomic_ref thunk(view.request(task.index).thunk);
  return name_of_code(detail::find_thunk(thunk.load(std::memory_order_relaxed)),
                      records.function_of(task));
}

std::string name_of_task(const PoolView& view, Records& records, detail::TaskTicket task) {
  std::string name = records.name_of(task.index);
  return name.empty() ? name_of_code(view, records, task) : name;
}

}  // namespace brood::pool
