#include "shared/list_layout.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <variant>

#include "brood/detail/codec_stream.hpp"
#include "brood/error.hpp"

namespace brood::shared {

namespace {

constexpr std::size_t kUnit = 8;             // of slots and of all numbers
constexpr std::size_t kFormatBytes = 8;      // of each slot's format
constexpr std::size_t kPerValue = 17;        // bytes beside its slot: place, format, kind
constexpr std::size_t kMaxSlot = 9'999'992;  // what fits into a format
constexpr std::string_view kInteger = "q";
constexpr std::string_view kDouble = "d";
constexpr std::string_view kBool = "xxxxxxx?";
constexpr std::string_view kNothing = "xxxxxx?x";

enum class Kind : std::uint8_t { plain = 0, text = 1, bytes = 2, nothing = 3 };

Kind kind_of(const ListValue& value) noexcept {
  if (std::holds_alternative<std::string>(value)) return Kind::text;
  if (std::holds_alternative<ShareableList::Bytes>(value)) return Kind::bytes;
  return std::holds_alternative<std::monostate>(value) ? Kind::nothing : Kind::plain;
}

// The bytes of a text, or of bytes.
std::optional<std::span<const std::byte>> run_of(const ListValue& value) noexcept {
  if (const auto* text = std::get_if<std::string>(&value)) return std::as_bytes(std::span(*text));
  if (const auto* bytes = std::get_if<ShareableList::Bytes>(&value)) return std::span(*bytes);
  return std::nullopt;
}

std::size_t slot_bytes(const ListValue& value) {
  const auto run = run_of(value);
  if (!run) return kUnit;
  const std::size_t bytes = kUnit * (run->size() / kUnit + 1);
  if (bytes > kMaxSlot) {
    throw Error("brood: a value of " + std::to_string(run->size()) +
                " bytes is too long for a ShareableList");
  }
  return bytes;
}

std::string format_of(const ListValue& value, std::size_t slot) {
  if (std::holds_alternative<bool>(value)) return std::string(kBool);
  if (std::holds_alternative<std::int64_t>(value)) return std::string(kInteger);
  if (std::holds_alternative<double>(value)) return std::string(kDouble);
  if (std::holds_alternative<std::monostate>(value)) return std::string(kNothing);
  return std::to_string(slot) + "s";
}

std::uint64_t word_of(const ListValue& value) noexcept {
  if (const auto* number = std::get_if<std::int64_t>(&value)) {
    return std::bit_cast<std::uint64_t>(*number);
  }
  if (const auto* number = std::get_if<double>(&value))
    return std::bit_cast<std::uint64_t>(*number);
  std::array<std::uint8_t, kUnit> bytes{};
  if (const auto* flag = std::get_if<bool>(&value)) bytes.back() = *flag ? 1 : 0;
  return std::bit_cast<std::uint64_t>(bytes);
}

// ---- where things lie

std::size_t count_of(std::span<const std::size_t> slots) noexcept { return slots.size() - 1; }
std::size_t format_at(std::span<const std::size_t> slots, std::size_t index) noexcept {
  return slots.back() + index * kFormatBytes;
}
std::size_t kind_at(std::span<const std::size_t> slots, std::size_t index) noexcept {
  return slots.back() + count_of(slots) * kFormatBytes + index;
}
std::size_t length_of(std::span<const std::size_t> slots, std::size_t index) noexcept {
  return slots[index + 1] - slots[index];
}

std::vector<std::size_t> place(std::span<const ListValue> values) {
  std::vector<std::size_t> slots = {(values.size() + 2) * kUnit};
  slots.reserve(values.size() + 1);
  for (const ListValue& value : values) slots.push_back(slots.back() + slot_bytes(value));
  return slots;
}

// ---- what nobody vouches for

detail::Reader reader_at(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  return detail::Reader(bytes.subspan(at, size));
}

std::uint64_t read_word(std::span<const std::byte> bytes, std::size_t at) {
  return reader_at(bytes, at, kUnit).read_scalar<std::uint64_t>();
}

[[noreturn]] void throw_no_list(const char* why) {
  throw DecodeError(std::string("brood: this memory holds no shareable list: ") + why);
}

// Without the zeros that fill it up.
template <class Run>
Run read_run(std::span<const std::byte> bytes, std::size_t at, std::size_t length) {
  Run run(length, typename Run::value_type{});
  reader_at(bytes, at, length).read_bytes(run.data(), length);
  while (!run.empty() && run.back() == typename Run::value_type{}) run.pop_back();
  return run;
}

// "24s" -> 24.
std::optional<std::size_t> run_length(std::string_view format) noexcept {
  if (format.size() < 2 || format.back() != 's') return std::nullopt;
  std::size_t length = 0;
  for (const char digit : format.substr(0, format.size() - 1)) {
    if (digit < '0' || digit > '9') return std::nullopt;
    length = length * 10 + static_cast<std::size_t>(digit - '0');
  }
  return length;
}

}  // namespace

std::size_t list_bytes(std::span<const ListValue> values) {
  return place(values).back() + values.size() * (kFormatBytes + 1);
}

void write_list(std::span<const ListValue> values, std::span<std::byte> bytes) {
  const std::vector<std::size_t> slots = place(values);
  detail::Writer out(bytes);
  out.write_scalar(std::uint64_t{values.size()});
  for (const std::size_t slot : slots) out.write_scalar(std::uint64_t{slot - slots.front()});
  for (std::size_t i = 0; i < values.size(); ++i) write_value(bytes, slots, i, values[i]);
}

std::vector<std::size_t> read_slots(std::span<const std::byte> bytes) {
  if (bytes.size() < 2 * kUnit) throw_no_list("it is too small");
  const std::uint64_t count = read_word(bytes, 0);
  if (count > (bytes.size() - 2 * kUnit) / (kPerValue + kUnit)) {
    throw_no_list("it is too small for the number of values");
  }
  const std::size_t first = (static_cast<std::size_t>(count) + 2) * kUnit;
  const std::size_t after = static_cast<std::size_t>(count) * (kFormatBytes + 1);
  const std::size_t room = bytes.size() - first - after;
  std::vector<std::size_t> slots;
  slots.reserve(static_cast<std::size_t>(count) + 1);
  for (std::size_t i = 0; i <= count; ++i) {
    const std::uint64_t offset = read_word(bytes, kUnit + i * kUnit);
    if (offset > room) throw_no_list("a slot lies outside");
    const std::size_t slot = first + static_cast<std::size_t>(offset);
    const bool fits =
        i == 0 ? offset == 0 : slot >= slots.back() + kUnit && slot - slots.back() <= kMaxSlot;
    if (!fits) throw_no_list("a slot is of no possible length");
    slots.push_back(slot);
  }
  return slots;
}

std::string read_format(std::span<const std::byte> bytes, std::span<const std::size_t> slots,
                        std::size_t index) {
  return read_run<std::string>(bytes, format_at(slots, index), kFormatBytes);
}

ListValue read_value(std::span<const std::byte> bytes, std::span<const std::size_t> slots,
                     std::size_t index) {
  const std::string format = read_format(bytes, slots, index);
  const auto kind =
      static_cast<Kind>(reader_at(bytes, kind_at(slots, index), 1).read_scalar<std::uint8_t>());
  const std::size_t at = slots[index];
  if (kind == Kind::plain) {
    if (format == kInteger) return std::bit_cast<std::int64_t>(read_word(bytes, at));
    if (format == kDouble) return std::bit_cast<double>(read_word(bytes, at));
    if (format == kBool) {
      return reader_at(bytes, at + kUnit - 1, 1).read_scalar<std::uint8_t>() != 0;
    }
  } else if (kind == Kind::nothing) {
    if (format == kNothing) return std::monostate{};
  } else if (const auto length = run_length(format); length && *length <= length_of(slots, index)) {
    if (kind == Kind::text) return read_run<std::string>(bytes, at, *length);
    if (kind == Kind::bytes) return read_run<ShareableList::Bytes>(bytes, at, *length);
  }
  throw DecodeError("brood: slot " + std::to_string(index) +
                    " of a shareable list holds nothing that is known");
}

void write_value(std::span<std::byte> bytes, std::span<const std::size_t> slots, std::size_t index,
                 const ListValue& value) {
  const std::size_t length = length_of(slots, index);
  const auto run = run_of(value);
  if (run && run->size() > length) {
    throw Error("brood: a value of " + std::to_string(run->size()) +
                " bytes does not fit into slot " + std::to_string(index) +
                " of a shareable list, which has " + std::to_string(length));
  }
  std::array<char, kFormatBytes> format{};
  const std::string text = format_of(value, length);
  std::copy(text.begin(), text.end(), format.begin());
  std::memcpy(bytes.data() + format_at(slots, index), format.data(), format.size());
  bytes[kind_at(slots, index)] = static_cast<std::byte>(kind_of(value));
  std::byte* at = bytes.data() + slots[index];
  if (run) {
    if (!run->empty()) std::memcpy(at, run->data(), run->size());
    std::memset(at + run->size(), 0, length - run->size());
  } else {
    const std::uint64_t word = word_of(value);
    std::memcpy(at, &word, sizeof word);
  }
}

}  // namespace brood::shared
