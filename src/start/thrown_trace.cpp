#include "start/thrown_trace.hpp"

#include <span>

#include "shm/trace.hpp"

namespace brood::start {

ThrownTrace::ThrownTrace(const std::atomic<std::uintptr_t>& end) noexcept : end_(end) {
  sys::throw_hook() = {write, this};
}

ThrownTrace::~ThrownTrace() { sys::throw_hook() = before_; }

void ThrownTrace::write(void* self) noexcept {
  auto& mine = *static_cast<ThrownTrace*>(self);
  mine.written_.store(0, std::memory_order_relaxed);
  shm::TraceWriter writer(mine.trace_, mine.written_);
  writer.write_thrown(mine.end_.load(std::memory_order_relaxed));
}

std::vector<std::byte> ThrownTrace::take() {
  const sys::ThrowHook& hook = sys::throw_hook();
  if (hook.on_throw != write) return {};
  auto& mine = *static_cast<ThrownTrace*>(hook.context);
  const std::uint32_t bytes = mine.written_.exchange(0, std::memory_order_relaxed);
  const auto whole = std::span(mine.trace_).first(bytes);
  return {whole.begin(), whole.end()};
}

}  // namespace brood::start
