// Barrier: coming, waiting for the others, acting for all.
#include "shm/barrier.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "brood/locks.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"
#include "sys/clock.hpp"

namespace brood::detail {

namespace {

using shm::BarrierView;
using Arrived = BarrierView::Arrived;
using Outcome = BarrierView::Outcome;

static_assert(kBarrierActionBytes == shm::kActionBytes);

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, BarrierView::bytes_for(1));
}

[[noreturn]] void throw_broken() {
  throw BrokenBarrier(
      "brood: the barrier is broken: a party gave up or died, or it was aborted or reset");
}

// What an action sees of its task: no more than the bytes of its callable.
class ActionFrame final : public TaskFrame {
 public:
  explicit ActionFrame(const std::byte* captured) {
    std::memcpy(captured_.data(), captured, captured_.size());
  }
  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override { return captured_; }
  void enter_user_code() noexcept override {}
  void leave_user_code() noexcept override {}
  std::span<std::byte> reply(std::size_t, bool) override { refuse(); }
  void keep_for_caller(std::span<const ObjectHandle>) override { refuse(); }
  [[nodiscard]] std::uint32_t count() const noexcept override { return 0; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return 0; }
  std::span<std::byte> reply_element(std::uint32_t, std::size_t, bool) override { refuse(); }
  void fail_element(std::uint32_t) noexcept override {}
  ElementEnd finish_element(std::uint32_t /*index*/) noexcept override { return ElementEnd::next; }
  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t) const override { refuse(); }
  std::shared_ptr<const void>& bound_cache(std::uint64_t) override { refuse(); }

 private:
  [[noreturn]] static void refuse() {
    throw DecodeError("brood: the barrier's action was overwritten");
  }
  alignas(16) std::array<std::byte, kBarrierActionBytes> captured_{};
};

// A party from its arrival until it goes on.
class Party {
 public:
  Party(const shm::ObjectPlace& place, BarrierView view) noexcept : place_(place), view_(view) {}
  // Whoever has not passed breaks it for all.
  ~Party() {
    if (!has_place_) return;
    if (!has_passed_ && view_.break_generation(arrival_.generation)) ring();
    view_.leave(arrival_);
    place_.header->bells[1].ring_for_all();
  }
  Party(const Party&) = delete;
  Party& operator=(const Party&) = delete;

  // False: there is no room among those who are about to pass.
  bool arrive(shm::OwnerId me, bool has_action) noexcept {
    arrival_ = view_.arrive(me, has_action);
    has_place_ = arrival_.how != Arrived::full && arrival_.how != Arrived::broken;
    return arrival_.how != Arrived::full;
  }
  std::size_t pass(ThunkId action, DeadlineNs deadline);

 private:
  void ring() noexcept { shm::ring_all_bells(*place_.header); }
  void act(ThunkId action);
  void wait(DeadlineNs deadline);

  const shm::ObjectPlace& place_;
  BarrierView view_;
  BarrierView::Arrival arrival_;
  bool has_place_ = false;
  bool has_passed_ = false;
};

void look_after_parties(const shm::ObjectPlace& place, BarrierView& view) {
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space == nullptr) return;
  if (view.bury_those([&](shm::OwnerId party) { return space->has_left(party); })) {
    shm::ring_all_bells(*place.header);
  }
}

// As shared::wait_until, looking after the others now and then.
template <class Done>
bool wait_among(const shm::ObjectPlace& place, BarrierView& view, std::size_t bell,
                DeadlineNs deadline, Done&& done) {
  static start::LookTime look_time;
  for (;;) {
    const std::int64_t until = sys::now_ns() + shared::kLookAfterOwnersNs;
    if (shared::wait_until(place.header->bells[bell], std::min(deadline, until), &look_time,
                           done)) {
      return true;
    }
    if (sys::now_ns() >= deadline) return false;
    look_after_parties(place, view);
  }
}

void Party::act(ThunkId action) {
  const Thunk thunk = find_thunk(action);
  if (thunk.run == nullptr) {
    throw Error("brood: this process does not have the code of the barrier's action");
  }
  ActionFrame frame(view_.body().captured);
  thunk.run(frame);
  if (!view_.acted(arrival_.generation)) throw_broken();
}

void Party::wait(DeadlineNs deadline) {
  const auto is_over = [&] { return view_.outcome(arrival_.generation) != Outcome::open; };
  if (!wait_among(place_, view_, 0, deadline, is_over)) {
    if (view_.break_generation(arrival_.generation)) ring();
  }
  if (view_.outcome(arrival_.generation) != Outcome::passed) throw_broken();
}

std::size_t Party::pass(ThunkId action, DeadlineNs deadline) {
  switch (arrival_.how) {
    case Arrived::acts:
      act(action);
      [[fallthrough]];
    case Arrived::passed:
      has_passed_ = true;
      ring();
      break;
    case Arrived::waits:
      wait(deadline);
      has_passed_ = true;
      break;
    case Arrived::broken:
    case Arrived::full:
      throw_broken();
  }
  return arrival_.index;
}

}  // namespace

BarrierCore::BarrierCore(std::int64_t parties, const BarrierAction& action,
                         std::optional<std::chrono::nanoseconds> limit) {
  static_assert(kBarrierKind == static_cast<std::uint32_t>(shm::ObjectKind::barrier));
  if (parties < 1 || parties > shm::kMostParties) {
    throw Error("brood: a barrier has 1 to 4095 parties, not " + std::to_string(parties));
  }
  const auto count = static_cast<std::uint32_t>(parties);
  auto hold = ObjectHold::make(shm::ObjectKind::barrier, 1, BarrierView::bytes_for(count));
  BarrierView::begin(hold->use().body, count);
  shm::BarrierBody& body = BarrierView(hold->use().body).body();
  body.action.store(action.thunk, std::memory_order_relaxed);
  std::memcpy(body.captured, action.captured.data(), sizeof body.captured);
  body.limit_ns.store(limit ? std::max<std::int64_t>(limit->count(), 0) : -1,
                      std::memory_order_relaxed);
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

std::size_t BarrierCore::wait_before(std::optional<DeadlineNs> deadline) const {
  const shm::ObjectPlace& place = use(handle_);
  BarrierView view(place.body);
  const ThunkId action = view.body().action.load(std::memory_order_relaxed);
  const std::int64_t limit_ns = view.body().limit_ns.load(std::memory_order_relaxed);
  const DeadlineNs end = deadline       ? *deadline
                         : limit_ns < 0 ? kNoDeadline
                                        : deadline_after(std::chrono::nanoseconds(limit_ns));
  const shm::OwnerId me = objects_here().me();
  Party party(place, view);
  const auto arrives = [&] { return party.arrive(me, action != 0); };
  if (!arrives() && !wait_among(place, view, 1, end, arrives)) {
    throw TimeoutError("brood: others were passing the barrier for all that time");
  }
  return party.pass(action, end);
}

void BarrierCore::abort() const {
  const shm::ObjectPlace& place = use(handle_);
  BarrierView(place.body).abort();
  shm::ring_all_bells(*place.header);
}

void BarrierCore::reset() const {
  const shm::ObjectPlace& place = use(handle_);
  BarrierView(place.body).reset();
  shm::ring_all_bells(*place.header);
}

std::size_t BarrierCore::parties() const { return BarrierView(use(handle_).body).parties(); }

std::size_t BarrierCore::n_waiting() const {
  const BarrierView view(use(handle_).body);
  return std::min(view.look().arrived, view.parties());
}

bool BarrierCore::broken() const {
  return BarrierView(use(handle_).body).look().state == shm::BarrierState::broken;
}

std::string BarrierCore::describe() const {
  if (!handle_) return "<Barrier empty>";
  if (broken()) return "<Barrier broken>";
  return "<Barrier waiters=" + std::to_string(n_waiting()) + "/" + std::to_string(parties()) + ">";
}

}  // namespace brood::detail
