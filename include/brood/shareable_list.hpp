// A list of fixed length in named shared memory, in the layout of Python's ShareableList.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "brood/shared_memory.hpp"

namespace brood {

// Values of a few types, one after the other, which other programs and Python's
// multiprocessing.shared_memory.ShareableList read and write too.
//
//   auto list = brood::ShareableList::create({"howdy", 100, 2.5, true, std::monostate{}},
//   "things"); list.set(1, "hello");                     // the type of a slot may change auto text
//   = list.get<std::string>(1);
//
// Each value has a slot: 8 bytes, texts and bytes the next multiple of 8 above their length. What
// is put there later has to fit. As in Python, zeros at the end of a text or of bytes are lost.
//
//   Threads:   reading from any thread. Writing a slot while anybody reads or writes it is to be
//              guarded by a lock of one's own: nothing here waits, and what is read may be half of
//              one and half of the other, or a DecodeError.
//   Blocking:  as SharedMemory.
//   Ownership: as SharedMemory, which it holds: copies share the mapping, and it is sent by name.
//   Errors:    Error for a slot that is not there and a value that does not fit; TypeMismatch if a
//              slot holds another type than the one asked for; DecodeError for bytes that are no
//              list; Closed; those of SharedMemory.
//   Death:     of a writer leaves the slot that it wrote with the old value, the new one, a mixture
//              or a DecodeError, until it is written again; the others are not concerned.
class ShareableList {
 public:
  using Bytes = std::vector<std::byte>;
  // monostate: Python's None. Integers of other types convert if they fit by type, as do floats.
  using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes>;

  // As SharedMemory::create(); `name` empty: automatic.
  static ShareableList create(std::span<const Value> values, std::string_view name = {});
  static ShareableList create(std::initializer_list<Value> values, std::string_view name = {}) {
    return create(std::span<const Value>(values.begin(), values.size()), name);
  }
  static ShareableList attach(std::string_view name) {
    return ShareableList(SharedMemory::attach(name));
  }
  // The list that lies in this memory. Throws DecodeError if none does.
  explicit ShareableList(SharedMemory memory);

  [[nodiscard]] std::size_t size() const noexcept { return slots_.empty() ? 0 : slots_.size() - 1; }
  [[nodiscard]] Value get(std::size_t index) const;
  // Constant, so that `list[0] = 5`, which would change a copy, does not compile: use set().
  // NOLINTNEXTLINE(readability-const-return-type)
  [[nodiscard]] const Value operator[](std::size_t index) const { return get(index); }
  template <class T>
  [[nodiscard]] T get(std::size_t index) const {
    Value value = get(index);
    if (T* held = std::get_if<T>(&value)) return std::move(*held);
    throw_other_type(index);
  }
  void set(std::size_t index, const Value& value);

  // How many are equal to `value`, and where the first is. 1, 1.0 and true are different values.
  [[nodiscard]] std::size_t count(const Value& value) const;
  [[nodiscard]] std::optional<std::size_t> index(const Value& value) const;
  [[nodiscard]] std::vector<Value> values() const;

  // How a slot, or all of them, are packed, as Python's module struct writes it: "q", "8s", ...
  [[nodiscard]] std::string format(std::size_t index) const;
  [[nodiscard]] std::string format() const;

  // For close(), unlink() and name().
  [[nodiscard]] SharedMemory& memory() noexcept { return memory_; }
  [[nodiscard]] const SharedMemory& memory() const noexcept { return memory_; }

 private:
  [[noreturn]] static void throw_other_type(std::size_t index);

  SharedMemory memory_;
  // Where each slot begins in the memory, and the last one ends. Read and checked once: what others
  // write there later leads nobody astray.
  std::vector<std::size_t> slots_;
};

namespace detail {

template <>
struct Codec<ShareableList> {
  using Parts = TypeList<>;
  static constexpr std::size_t min_size = Codec<SharedMemory>::min_size;

  template <class Out>
  static void encode(const ShareableList& list, Out& out) {
    Codec<SharedMemory>::encode(list.memory(), out);
  }
  static ShareableList decode(Reader& reader) {
    return ShareableList(Codec<SharedMemory>::decode(reader));
  }
};

}  // namespace detail
}  // namespace brood
