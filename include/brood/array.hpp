// Arrays that several processes share: Array, RawArray and Slice.
//
//   brood::Array<double> data(1'000'000);                       // zeros
//   auto scale = [](std::span<double> part) { for (double& x : part) x *= 2; };
//   for (auto& part : data.slices(4)) done.push_back(pool.submit(scale, part));   // in place
//
// Nothing is copied: the workers' spans are the same memory.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <mutex>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/detail/array_core.hpp"
#include "brood/detail/plain.hpp"
#include "brood/detail/shared_view.hpp"
#include "brood/locks.hpp"
#include "brood/shared_memory.hpp"

namespace brood {

template <class T>
class Slice;

// A fixed number of elements in memory that processes share, and that nothing guards.
//
// T is a type that is its bytes, as of Value. An array of const T is one that this handle can't
// change; each array converts to it.
//
//   Threads:   any, of any process; but they have to agree who uses which elements when, as with an
//              array that threads share.
//   Blocking:  never; touching the elements of a mapped file may wait for the disk.
//   Ownership: a handle: copies name the same elements, also in other processes; copy() makes
//              another array. Passed to processes and tasks, put into queues, it goes with the last
//              of them. Spans, pointers and iterators are good for as long as this handle lives.
//   Errors:    ArenaFull and what the start of a family throws, from constructors; of map_file()
//              SystemError, and Error for a file that is too short; StaleHandle from the others
//              (moved from, or inherited by a process that you forked yourself).
//   Death:     of a process leaves in the elements what it had written by then.
//   Memory ordering: none but that of the futures, locks or queues by which its users agree.
template <class T>
class RawArray {
  using Plain = std::remove_const_t<T>;
  static_assert((detail::require_plain<Plain>(), true));
  static_assert(alignof(Plain) <= 64, "brood: shared memory is aligned to 64 bytes at most");

 public:
  using value_type = Plain;
  using element_type = T;

  // Zeros.
  explicit RawArray(std::size_t count)
    requires(!std::is_const_v<T>)
      : memory_(detail::make_array(element(), count)) {}
  RawArray(std::initializer_list<Plain> values)
    requires(!std::is_const_v<T>)
      : RawArray(values.size()) {
    std::ranges::copy(values, data());
  }
  // Copies of a range's elements.
  template <std::ranges::input_range Range>
    requires(!std::is_const_v<T> && !std::derived_from<std::remove_cvref_t<Range>, RawArray<T>> &&
             std::convertible_to<std::ranges::range_reference_t<Range>, Plain> &&
             !(std::is_same_v<T, char> && std::convertible_to<Range, std::string_view>))
  explicit RawArray(Range&& range) : RawArray(elements_of(std::forward<Range>(range))) {}
  // A string without the zero at the end of its literal.
  explicit RawArray(std::string_view text)
    requires std::is_same_v<T, char>
      : RawArray(text.size()) {
    std::ranges::copy(text, data());
  }
  template <class U>
    requires(std::is_same_v<const U, T>)
  // NOLINTNEXTLINE(google-explicit-constructor)
  RawArray(const RawArray<U>& other) : memory_(other.memory_) {}

  // The elements are those of a file, which is read as they are looked at: arrays may be larger
  // than memory. Only if `writable` (and T is not const) may they be written; the file then has
  // what is written. Writing to others is SIGSEGV: an array of const T prevents that. The file may
  // get another name while it is mapped, but whoever receives the array needs the one it had.
  static RawArray map_file(const std::filesystem::path& path, const MapFileOptions& options = {}) {
    return RawArray(detail::map_array(element(), path, options));
  }

  // In shared memory of that name (shared_memory.hpp), for other programs too: Python finds the
  // elements at shared_memory.SharedMemory(name).buf. Zeros. Throws what SharedMemory::create()
  // throws; no elements is an Error.
  static RawArray create_named(std::string_view name, std::size_t count)
    requires(!std::is_const_v<T>)
  {
    return RawArray(detail::name_array(element(), name, count));
  }
  // Makes the elements readable by that name, as above. Of an array that was created with it, the
  // memory is the same; of others it is a copy of what the elements are now, since memory without a
  // name can't be given one. The memory belongs to the caller: unlink() removes the name.
  struct Exported {
    SharedMemory memory;
    bool same_memory;
  };
  [[nodiscard]] Exported export_as(std::string_view name) const {
    bool same = false;
    SharedMemory memory = detail::export_array(
        object_handle(), std::as_bytes(std::span<const T>(span())), name, same);
    return {std::move(memory), same};
  }

  [[nodiscard]] std::size_t size() const noexcept { return memory_.count; }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  [[nodiscard]] bool writable() const noexcept { return !std::is_const_v<T> && memory_.writable; }
  // Checks what handle this is, but not the index; in loops, span() is quicker. at() throws
  // std::out_of_range.
  [[nodiscard]] T& operator[](std::size_t index) const { return data()[index]; }
  [[nodiscard]] T& at(std::size_t index) const {
    if (index >= size()) detail::throw_out_of_range(index, size());
    return data()[index];
  }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.held.data()); }
  [[nodiscard]] T* begin() const { return data(); }
  [[nodiscard]] T* end() const { return data() + size(); }
  [[nodiscard]] std::span<T> span() const { return {data(), size()}; }

  // Contiguous parts. slices(n): n of them, whose sizes differ by one at most (empty ones if there
  // are fewer elements). chunks(n): of n elements each, the last may be shorter.
  [[nodiscard]] std::vector<Slice<T>> slices(std::size_t parts) const {
    if (parts == 0) detail::throw_no_parts();
    std::vector<Slice<T>> all;
    all.reserve(parts);
    const std::size_t each = size() / parts;
    const std::size_t larger = size() % parts;
    for (std::size_t i = 0; i < parts; ++i) {
      all.push_back(Slice<T>(*this, i * each + std::min(i, larger), each + (i < larger ? 1 : 0)));
    }
    return all;
  }
  [[nodiscard]] std::vector<Slice<T>> chunks(std::size_t elements) const {
    if (elements == 0) detail::throw_no_parts();
    std::vector<Slice<T>> all;
    for (std::size_t i = 0; i < size(); i += elements) {
      all.push_back(Slice<T>(*this, i, std::min(elements, size() - i)));
    }
    return all;
  }
  // `count` elements from `first` on; throws Error if there are fewer.
  [[nodiscard]] Slice<T> slice(std::size_t first, std::size_t count) const {
    return Slice<T>(*this, first, count);
  }

  // Another array with the same elements, in memory.
  [[nodiscard]] RawArray<Plain> copy() const { return RawArray<Plain>(span()); }

  // Whether both name the same array.
  friend bool operator==(const RawArray& a, const RawArray& b) noexcept {
    return a.object_handle().name() == b.object_handle().name();
  }

  static constexpr std::uint32_t kKind = detail::kArrayKind;
  static constexpr std::uint64_t object_type() { return detail::type_id<RawArray<Plain>>(); }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const noexcept {
    return memory_.held.handle();
  }

 protected:
  explicit RawArray(detail::ArrayMemory memory) : memory_(std::move(memory)) {}
  explicit RawArray(detail::ObjectHandle handle)
      : memory_(detail::receive_array(std::move(handle), element())) {}
  static constexpr detail::ElementType element() {
    return {object_type(), sizeof(Plain), alignof(Plain)};
  }

 private:
  friend detail::HandleCodec<RawArray<T>>;
  friend class RawArray<const T>;

  template <class Range>
  static RawArray elements_of(Range&& range) {
    if constexpr (std::ranges::forward_range<Range>) {
      RawArray array(static_cast<std::size_t>(std::ranges::distance(range)));
      std::ranges::copy(range, array.data());
      return array;
    } else {
      std::vector<Plain> values;
      for (auto&& value : range) values.push_back(value);
      return elements_of(values);
    }
  }

  detail::ArrayMemory memory_;
};

// A RawArray with a lock of its own, for those who change elements that others read.
//
//   Threads, Ownership: as RawArray; also of its lock.
//   Blocking:  update() and get_lock().lock() wait for the lock; nothing else does.
//   Errors:    as RawArray; from update() also what RLock::lock() throws.
//   Death:     as RawArray; in update() it leaves elements half changed, and the lock says so:
//              OwnerDied for all, until somebody calls get_lock().recover().
//   Memory ordering: who has the lock sees what others did while they had it.
template <class T>
class Array : public RawArray<T> {
 public:
  using RawArray<T>::RawArray;
  template <class U>
    requires(std::is_same_v<const U, T>)
  // NOLINTNEXTLINE(google-explicit-constructor)
  Array(const Array<U>& other) : RawArray<T>(static_cast<const RawArray<U>&>(other)) {}

  static Array map_file(const std::filesystem::path& path, const MapFileOptions& options = {}) {
    return Array(detail::map_array(RawArray<T>::element(), path, options));
  }
  static Array create_named(std::string_view name, std::size_t count)
    requires(!std::is_const_v<T>)
  {
    return Array(detail::name_array(RawArray<T>::element(), name, count));
  }
  // A lock that goes with the array. It keeps out whoever takes it too, and nobody else.
  [[nodiscard]] RLock get_lock() const { return detail::lock_of(this->object_handle()); }
  // f(span) while holding the lock; returns what f does.
  template <class F>
  decltype(auto) update(F&& f) const {
    const RLock lock = get_lock();
    const std::lock_guard guard(lock);
    return std::invoke(std::forward<F>(f), this->span());
  }

  [[nodiscard]] Array<std::remove_const_t<T>> copy() const {
    return Array<std::remove_const_t<T>>(this->span());
  }

 private:
  friend detail::HandleCodec<Array<T>>;
  explicit Array(detail::ArrayMemory memory) : RawArray<T>(std::move(memory)) {}
  explicit Array(detail::ObjectHandle handle) : RawArray<T>(std::move(handle)) {}
};

template <std::ranges::input_range Range>
RawArray(Range&&) -> RawArray<std::ranges::range_value_t<Range>>;
template <std::ranges::input_range Range>
Array(Range&&) -> Array<std::ranges::range_value_t<Range>>;

// A part of an array, as a task is given it. It converts to a span where a task's function takes
// one, and keeps the whole array alive.
//
//   Threads, Blocking, Ownership, Death: as RawArray.
//   Errors: as RawArray; Error for a part that is none.
//   Memory ordering: as RawArray.
template <class T>
class Slice {
 public:
  using value_type = std::remove_const_t<T>;
  using element_type = T;

  // All of it.
  // NOLINTNEXTLINE(google-explicit-constructor)
  Slice(RawArray<T> array) : array_(std::move(array)), count_(array_.size()) {}
  template <class U>
    requires(std::is_same_v<const U, T>)
  // NOLINTNEXTLINE(google-explicit-constructor)
  Slice(const RawArray<U>& array) : array_(array), count_(array_.size()) {}
  Slice(RawArray<T> array, std::size_t first, std::size_t count)
      : array_(std::move(array)), first_(first), count_(count) {
    if (first > array_.size() || count > array_.size() - first) detail::throw_bad_slice();
  }
  template <class U>
    requires(std::is_same_v<const U, T>)
  // NOLINTNEXTLINE(google-explicit-constructor)
  Slice(const Slice<U>& other)
      : array_(other.array()), first_(other.first()), count_(other.size()) {}

  [[nodiscard]] const RawArray<T>& array() const noexcept { return array_; }
  [[nodiscard]] std::size_t first() const noexcept { return first_; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] T& operator[](std::size_t index) const { return data()[index]; }
  [[nodiscard]] T* data() const { return array_.data() + first_; }
  [[nodiscard]] T* begin() const { return data(); }
  [[nodiscard]] T* end() const { return data() + count_; }
  [[nodiscard]] std::span<T> span() const { return {data(), count_}; }

 private:
  RawArray<T> array_;
  std::size_t first_ = 0;
  std::size_t count_;
};

}  // namespace brood

#include "brood/detail/array_wire.hpp"
