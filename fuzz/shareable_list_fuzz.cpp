// Arbitrary bytes as a shareable list: only DecodeError may come out, and what is put into a slot
// is read from it again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "brood/error.hpp"
#include "shared/list_layout.hpp"

namespace {

using brood::shared::ListValue;

void require(bool condition) {
  if (!condition) std::abort();
}

// A NaN equals nothing.
bool same(const ListValue& a, const ListValue& b) {
  const double* number = std::get_if<double>(&a);
  return a == b || (number != nullptr && *number != *number && std::holds_alternative<double>(b));
}

void put_and_get(std::span<std::byte> bytes, std::span<const std::size_t> slots, std::size_t index,
                 const ListValue& value) {
  try {
    brood::shared::write_value(bytes, slots, index, value);
  } catch (const brood::Error&) {
    return;  // it does not fit
  }
  require(same(brood::shared::read_value(bytes, slots, index), value));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  std::vector<std::byte> bytes(input.begin(), input.end());
  std::vector<std::size_t> slots;
  try {
    slots = brood::shared::read_slots(bytes);
  } catch (const brood::DecodeError&) {
    return 0;
  }
  require(slots.back() + 9 * (slots.size() - 1) <= bytes.size());
  for (std::size_t i = 0; i + 1 < slots.size(); ++i) {
    static_cast<void>(brood::shared::read_format(bytes, slots, i));
    try {
      put_and_get(bytes, slots, i, brood::shared::read_value(bytes, slots, i));
    } catch (const brood::DecodeError&) {
    }
    put_and_get(bytes, slots, i, std::string("twelve bytes"));
    put_and_get(bytes, slots, i, true);
    put_and_get(bytes, slots, i, std::monostate{});
  }
  return 0;
}
