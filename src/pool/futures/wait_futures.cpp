// wait() and as_completed() of futures (brood/completion.hpp).
#include <string>

#include "brood/completion.hpp"

namespace brood {

using detail::FutureAccess;

namespace {

void require_valid(const AnyFuture& future, std::size_t place) {
  if (FutureAccess::core(future) != nullptr) return;
  throw Error("brood: future " + std::to_string(place) + " has nothing to wait for");
}

bool is_ready(const AnyFuture& future) noexcept {
  return FutureAccess::core(future)->ready(FutureAccess::task(future));
}

// Of one that is ready: whether get() will throw.
bool has_failed(const AnyFuture& future) noexcept {
  try {
    const detail::TaskReply reply = FutureAccess::core(future)->reply(FutureAccess::task(future));
    return reply.kind != detail::TaskReply::Kind::value;
  } catch (...) {
    return true;
  }
}

class Wait {
 public:
  Wait(std::span<const AnyFuture> futures, ReturnWhen when) : futures_(futures), when_(when) {}

  void until(detail::DeadlineNs deadline) {
    const auto pending = detail::CompletionCore::make();
    for (std::size_t i = 0; i < futures_.size(); ++i) require_valid(futures_[i], i);
    for (std::size_t i = 0; i < futures_.size(); ++i) {
      if (!is_ready(futures_[i])) {
        ++left_;
      } else if (is_enough(futures_[i])) {
        return;
      }
    }
    if (left_ == 0) return;
    for (std::size_t i = 0; i < futures_.size(); ++i) {
      pending->add(FutureAccess::core(futures_[i]), FutureAccess::task(futures_[i]), i);
    }
    while (const auto place = pending->next_until(deadline)) {
      if (is_enough(futures_[*place])) return;
    }
  }

  [[nodiscard]] WaitedFor outcome() const {
    WaitedFor result;
    for (std::size_t i = 0; i < futures_.size(); ++i) {
      (is_ready(futures_[i]) ? result.done : result.not_done).push_back(i);
    }
    return result;
  }

 private:
  [[nodiscard]] bool is_enough(const AnyFuture& ended) const noexcept {
    switch (when_) {
      case ReturnWhen::first_completed:
        return true;
      case ReturnWhen::first_exception:
        return has_failed(ended);
      default:
        return false;
    }
  }

  std::span<const AnyFuture> futures_;
  ReturnWhen when_;
  std::size_t left_ = 0;
};

}  // namespace

WaitedFor wait(std::span<const AnyFuture> futures, ReturnWhen when,
               std::optional<std::chrono::nanoseconds> timeout) {
  Wait wait(futures, when);
  wait.until(timeout ? detail::deadline_after(*timeout) : detail::kNoDeadline);
  return wait.outcome();
}

WaitedFor wait(std::initializer_list<AnyFuture> futures, ReturnWhen when,
               std::optional<std::chrono::nanoseconds> timeout) {
  return wait(std::span(futures.begin(), futures.size()), when, timeout);
}

namespace detail {

void CompletionOrder::add(const AnyFuture& future, std::size_t place) {
  require_valid(future, place);
  core_->add(FutureAccess::core(future), FutureAccess::task(future), place);
}

std::optional<std::size_t> CompletionOrder::next() {
  const auto place = core_->next_until(deadline_);
  if (!place && !core_->empty()) {
    throw TimeoutError("brood: not all of these futures have ended in time");
  }
  return place;
}

}  // namespace detail

}  // namespace brood
