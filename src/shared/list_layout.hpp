// A shareable list as it lies in memory: Python's layout (multiprocessing.shared_memory), all
// numbers in the machine's byte order.
//
//   8 bytes         N, the number of values
//   (N + 1) * 8     where the slots begin, and the last one ends, from the beginning of the first
//   K bytes         the slots: 8 bytes each, texts and bytes a multiple of 8
//   N * 8           how each slot is packed: "q" an integer, "d" a double, "xxxxxxx?" a bool in the
//                   last byte, "xxxxxx?x" nothing, "24s" text or bytes; filled up with zeros
//   N               what that becomes: 0 a number or a bool, 1 a text, 2 bytes, 3 nothing
//
// Nobody vouches for what is read here. Where the slots lie is read and checked once; of a slot,
// each byte is looked at once.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "brood/shareable_list.hpp"

namespace brood::shared {

using ListValue = ShareableList::Value;

// How many bytes a list of these values takes. Throws Error for a value that is too long.
std::size_t list_bytes(std::span<const ListValue> values);
// Writes it into so many bytes.
void write_list(std::span<const ListValue> values, std::span<std::byte> bytes);

// Where the slots of the list in `bytes` begin, and the last one ends, all within `bytes` together
// with what follows them. Throws DecodeError.
std::vector<std::size_t> read_slots(std::span<const std::byte> bytes);

// `slots` as read_slots() gave them for a memory of this size; `index` is that of a slot.
// Throw DecodeError, and Error where the value does not fit.
ListValue read_value(std::span<const std::byte> bytes, std::span<const std::size_t> slots,
                     std::size_t index);
void write_value(std::span<std::byte> bytes, std::span<const std::size_t> slots, std::size_t index,
                 const ListValue& value);
std::string read_format(std::span<const std::byte> bytes, std::span<const std::size_t> slots,
                        std::size_t index);

}  // namespace brood::shared
