#include "brood/shareable_list.hpp"

#include <utility>

#include "brood/error.hpp"
#include "shared/list_layout.hpp"

namespace brood {

namespace {

void require_slot(const ShareableList& list, std::size_t index) {
  if (index < list.size()) return;
  throw Error("brood: a shareable list of " + std::to_string(list.size()) + " values has no slot " +
              std::to_string(index));
}

}  // namespace

ShareableList ShareableList::create(std::span<const Value> values, std::string_view name) {
  SharedMemory memory = SharedMemory::create(name, shared::list_bytes(values));
  shared::write_list(values, memory.span());
  return ShareableList(std::move(memory));
}

ShareableList::ShareableList(SharedMemory memory)
    : memory_(std::move(memory)), slots_(shared::read_slots(memory_.span())) {}

ShareableList::Value ShareableList::get(std::size_t index) const {
  require_slot(*this, index);
  return shared::read_value(memory_.span(), slots_, index);
}

void ShareableList::set(std::size_t index, const Value& value) {
  require_slot(*this, index);
  shared::write_value(memory_.span(), slots_, index, value);
}

std::size_t ShareableList::count(const Value& value) const {
  std::size_t found = 0;
  for (std::size_t i = 0; i < size(); ++i) found += get(i) == value ? 1U : 0U;
  return found;
}

std::optional<std::size_t> ShareableList::index(const Value& value) const {
  for (std::size_t i = 0; i < size(); ++i) {
    if (get(i) == value) return i;
  }
  return std::nullopt;
}

std::vector<ShareableList::Value> ShareableList::values() const {
  std::vector<Value> all;
  all.reserve(size());
  for (std::size_t i = 0; i < size(); ++i) all.push_back(get(i));
  return all;
}

std::string ShareableList::format(std::size_t index) const {
  require_slot(*this, index);
  return shared::read_format(memory_.span(), slots_, index);
}

std::string ShareableList::format() const {
  std::string all;
  for (std::size_t i = 0; i < size(); ++i) all += format(i);
  return all;
}

void ShareableList::throw_other_type(std::size_t index) {
  throw TypeMismatch("brood: slot " + std::to_string(index) +
                     " of a shareable list holds another type than the one asked for");
}

}  // namespace brood
