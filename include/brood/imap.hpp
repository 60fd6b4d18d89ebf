// Results of a map as they are asked for.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <utility>

#include "brood/detail/lazy_map.hpp"
#include "brood/result.hpp"

namespace brood {

// What Pool::imap() and Pool::imap_results() return: an input range, read once, of R& or of
// Result<R>&. Moving out of them is fine.
//
//   Threads:   one at a time.
//   Blocking:  begin(), ++ and next() until the next element has ended; with MapOptions::timeout at
//              most that long each.
//   Ownership: move-only, but not while it is iterated over. The destructor drops what was read
//              ahead and has not been asked for: such tasks run all the same.
//   Errors:    TimeoutError, after which it can be asked again. What an element threw, *, -> and
//              next() throw, and ++ goes on behind it. What reading the range threw comes at its
//              position, as the last. What can't be sent is the error of that element.
//   Death:     of a worker costs the element that it was at: WorkerDied with its index.
template <class Source, bool as_results>
class [[nodiscard]] LazyResults {
  using R = typename Source::Result;

 public:
  using Element = std::conditional_t<as_results, Result<R>, R>;

  class iterator {
   public:
    using value_type = Element;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    iterator() noexcept = default;
    Element& operator*() const { return of_->current(); }
    Element* operator->() const { return &of_->current(); }
    iterator& operator++() {
      of_->advance();
      return *this;
    }
    void operator++(int) { of_->advance(); }
    friend bool operator==(const iterator& i, std::default_sentinel_t /*end*/) noexcept {
      return i.is_at_end();
    }

   private:
    friend class LazyResults;
    [[nodiscard]] bool is_at_end() const noexcept { return !of_->current_.has_value(); }
    explicit iterator(LazyResults* of) noexcept : of_(of) {}
    LazyResults* of_ = nullptr;
  };

  explicit LazyResults(Source source) : source_(std::move(source)) {}

  iterator begin() {
    advance();
    return iterator(this);
  }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

  // The next one; nullopt after the last. Not beside an iteration.
  std::optional<Element> next() {
    std::optional<Result<R>> outcome = source_.next();
    if (!outcome) return std::nullopt;
    if constexpr (as_results) {
      return outcome;
    } else {
      return std::move(*outcome).value();
    }
  }

 private:
  void advance() { current_ = source_.next(); }
  Element& current() {
    if constexpr (as_results) {
      return *current_;
    } else {
      return current_->value();
    }
  }

  Source source_;
  std::optional<Result<R>> current_;
};

}  // namespace brood
