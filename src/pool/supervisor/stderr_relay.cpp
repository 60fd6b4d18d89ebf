#include "pool/supervisor/stderr_relay.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "sys/clock.hpp"
#include "sys/memory.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

using shm::kStderrTailBytes;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kShortestPauseNs = kMs;
constexpr std::int64_t kLongestPauseNs = 100 * kMs;
constexpr std::int64_t kPatienceAtEndNs = 100 * kMs;  // with a stream that takes nothing
constexpr std::int64_t kLongestEndNs = 1000 * kMs;

// Whoever dies meanwhile is looked after in less than a millisecond.
constexpr std::size_t kMostAtOnce = std::size_t{1} << 16U;
constexpr std::size_t kMostOfOne = std::size_t{1} << 14U;

// For the signal handler.
std::atomic<sys::FutexWord*> handler_control{nullptr};
std::atomic<bool> text_came{false};

void on_text(int /*signal*/) {
  text_came.store(true, std::memory_order_relaxed);
  handler_control.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed);
}
// Their defaults would end the process. (A handler, for an ignored signal is inherited.)
void on_refusal(int /*signal*/) {}

bool ends_line(std::span<const std::byte> text) noexcept {
  return text.empty() || text.back() == std::byte{'\n'};
}

}  // namespace

void StderrRelay::start(int stream, sys::FutexWord& control) noexcept {
  stream_ = sys::PatientStream(stream);
  // Whoever writes to this one may have to wait: better the workers themselves than we.
  if (!stream_.is_patient()) return;
  memory_ = static_cast<Memory*>(sys::map_private(sizeof(Memory)));
  if (memory_ == nullptr) return;
  sys::keep_from_children(memory_, sizeof(Memory));
  handler_control.store(&control, std::memory_order_relaxed);
  text_came.store(false, std::memory_order_relaxed);
  sys::on_signal(sys::signal_number::kPipe, on_refusal);
  sys::on_signal(sys::signal_number::kFileTooLarge, on_refusal);
  sys::on_signal(sys::signal_number::kInputOutput, on_text);
}

sys::Fd StderrRelay::open(std::uint16_t slot) noexcept {
  sys::Fd writing;
  if (memory_ == nullptr || slot >= pipes_.size()) return writing;
  memory_->tails[slot].written = 0;
  if (sys::pipe_with_news(pipes_[slot], writing) < 0) return writing;
  top_slot_ = std::max<std::uint16_t>(top_slot_, static_cast<std::uint16_t>(slot + 1));
  return writing;
}

std::span<const std::byte> StderrRelay::tail_of(std::uint16_t slot) noexcept {
  if (memory_ == nullptr || slot >= top_slot_) return {};
  take_all_from(slot);
  const Tail& tail = memory_->tails[slot];
  const std::size_t length = std::min<std::uint64_t>(tail.written, kStderrTailBytes);
  const std::size_t begin = (tail.written - length) % kStderrTailBytes;
  const std::size_t first = std::min(length, kStderrTailBytes - begin);
  std::memcpy(memory_->tail.data(), tail.last.data() + begin, first);
  std::memcpy(memory_->tail.data() + first, tail.last.data(), length - first);
  return std::span(memory_->tail).first(length);
}

void StderrRelay::close(std::uint16_t slot) noexcept {
  if (memory_ == nullptr || slot >= top_slot_) return;
  take_all_from(slot);
  pipes_[slot].reset();
  memory_->tails[slot].written = 0;
}

void StderrRelay::forward(std::int64_t now_ns) noexcept {
  if (memory_ == nullptr) return;
  // Full a moment ago.
  if (begin_ != end_ && next_look_ns_ != sys::kForever && now_ns < next_look_ns_) return;
  if (!flush(now_ns)) return;
  if (!text_came.exchange(false, std::memory_order_relaxed) && !more_) return;
  more_ = false;
  pass_on_from_all(now_ns);
}

void StderrRelay::finish() noexcept {
  if (memory_ == nullptr) return;
  for (std::uint16_t slot = 0; slot < top_slot_; ++slot) close(slot);
  std::int64_t now = sys::now_ns();
  const std::int64_t end = now + kLongestEndNs;
  std::int64_t give_up = now + kPatienceAtEndNs;
  for (;;) {
    const std::size_t left = end_ - begin_;
    if (flush(now)) return;
    now = sys::now_ns();
    if (end_ - begin_ < left) give_up = now + kPatienceAtEndNs;
    if (now >= std::min(give_up, end)) return;
    stream_.wait(std::min(give_up, end));
  }
}

// What there is, at most `most`: valid until the next call.
std::span<const std::byte> StderrRelay::take_from(std::uint16_t slot, std::size_t most) noexcept {
  if (!pipes_[slot]) return {};
  const std::span<std::byte> into = std::span(memory_->chunk).first(most);
  const long got = sys::read_now(pipes_[slot].get(), into);
  if (got == 0) pipes_[slot].reset();
  if (got <= 0) return {};
  const std::span<const std::byte> text = into.first(static_cast<std::size_t>(got));
  Tail& tail = memory_->tails[slot];
  const std::span<const std::byte> last = text.last(std::min(text.size(), kStderrTailBytes));
  const std::size_t at = (tail.written + text.size() - last.size()) % kStderrTailBytes;
  const std::size_t first = std::min(last.size(), kStderrTailBytes - at);
  std::memcpy(tail.last.data() + at, last.data(), first);
  std::memcpy(tail.last.data(), last.data() + first, last.size() - first);
  tail.written += text.size();
  return text;
}

// Its children may still write: not without end.
void StderrRelay::take_all_from(std::uint16_t slot) noexcept {
  const std::size_t most = memory_->chunk.size();
  for (std::size_t taken = 0; taken < memory_->outgoing.size(); taken += most) {
    const std::span<const std::byte> text = take_from(slot, most);
    keep(text);
    if (text.size() < most) return;
  }
}

void StderrRelay::keep(std::span<const std::byte> text) noexcept {
  if (text.empty()) return;
  std::byte* const all = memory_->outgoing.data();
  if (text.size() > memory_->outgoing.size() - end_) {
    std::memmove(all, all + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const std::size_t fits = std::min(text.size(), memory_->outgoing.size() - end_);
  std::memcpy(all + end_, text.data(), fits);
  end_ += fits;
  dropped_ += text.size() - fits;
}

void StderrRelay::tell_dropped() noexcept {
  std::array<char, 100> line;
  const int length = std::snprintf(
      line.data(), line.size(), "\nbrood: dropped %llu bytes that dead workers wrote to stderr\n",
      static_cast<unsigned long long>(dropped_));
  dropped_ = 0;
  keep(std::as_bytes(std::span(line).first(static_cast<std::size_t>(std::max(length, 0)))));
}

// Whole lines, if there is one.
std::size_t StderrRelay::piece_length() const noexcept {
  const std::span<const std::byte> all = std::span(memory_->outgoing).first(end_).subspan(begin_);
  if (all.size() <= sys::kUntornBytes) return all.size();
  std::size_t length = sys::kUntornBytes;
  while (length > 0 && !ends_line(all.first(length))) --length;
  return length == 0 ? sys::kUntornBytes : length;
}

// Whether all is on the stream; else next_look_ns_ says when to go on.
bool StderrRelay::flush(std::int64_t now_ns) noexcept {
  std::size_t written = 0;
  while (begin_ != end_) {
    if (written >= kMostAtOnce) {
      next_look_ns_ = now_ns;
      return false;
    }
    const std::span<const std::byte> piece =
        std::span(memory_->outgoing).subspan(begin_, piece_length());
    const long result = stream_.write(piece);
    if (result == -EAGAIN) {
      pause_ns_ = written != 0 ? kShortestPauseNs
                               : std::clamp(2 * pause_ns_, kShortestPauseNs, kLongestPauseNs);
      next_look_ns_ = now_ns + pause_ns_;
      return false;
    }
    // What is refused has nowhere to go.
    const std::size_t done = result > 0 ? static_cast<std::size_t>(result) : piece.size();
    begin_ += done;
    written += done;
    if (begin_ != end_) continue;
    begin_ = end_ = 0;
    if (dropped_ != 0) tell_dropped();
  }
  pause_ns_ = 0;
  next_look_ns_ = sys::kForever;
  return true;
}

void StderrRelay::look_for_text(std::int64_t now_ns) noexcept {
  const std::span<sys::PollEntry> entries = std::span(memory_->entries).first(top_slot_);
  for (std::size_t slot = 0; slot < entries.size(); ++slot) {
    entries[slot] = {pipes_[slot].get(), sys::PollEntry().wanted, 0};
  }
  if (sys::poll(entries, now_ns) >= 0) return;
  for (sys::PollEntry& entry : entries) entry.seen = entry.wanted;
}

void StderrRelay::pass_on_from_all(std::int64_t now_ns) noexcept {
  look_for_text(now_ns);
  std::size_t taken = 0;
  const std::uint16_t first = next_slot_;
  for (std::uint16_t i = 0; i < top_slot_; ++i) {
    const auto slot = static_cast<std::uint16_t>((first + i) % top_slot_);
    if (!memory_->entries[slot].ready()) continue;
    // A line that has begun is ended before another worker's begins, if its end is there.
    for (bool in_line = true; in_line;) {
      next_slot_ = slot;
      const std::span<const std::byte> text = take_from(slot, kMostOfOne);
      const bool is_all = text.size() < kMostOfOne;
      more_ = more_ || !is_all;
      in_line = !is_all && !ends_line(text);
      taken += text.size();
      keep(text);
      if (!flush(now_ns) || taken >= kMostAtOnce) {
        more_ = true;
        if (begin_ == end_) next_look_ns_ = now_ns;
        return;
      }
      if (!in_line) next_slot_ = static_cast<std::uint16_t>(slot + 1);
    }
  }
  if (more_) next_look_ns_ = now_ns;
}

}  // namespace brood::pool
