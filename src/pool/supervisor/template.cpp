#include "pool/supervisor/template.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "pool/protocol/call.hpp"
#include "pool/protocol/pool_process.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "pool/worker/worker.hpp"
#include "start/child_main.hpp"
#include "start/hooks.hpp"
#include "start/process_name.hpp"
#include "start/thrown_trace.hpp"
#include "sys/clock.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/thrown.hpp"
#include "warden/family.hpp"

namespace brood::pool {

namespace {

constexpr std::int64_t kPauseNs = 1'000'000;
constexpr std::int64_t kLongestCopyNs = 2'000'000'000;

struct Order {
  shm::OwnerId id;
  shm::OwnerId member;
  std::uint32_t has_member = 0;
};

enum class News : std::uint32_t { ready = 1, failed = 2, born = 3 };
struct Message {
  News news = News::failed;
  std::int32_t number = 0;  // born: of the worker, or -errno
};

template <class T>
int say(int line, const T& what) noexcept {
  return sys::send_packet(line, std::as_bytes(std::span(&what, 1)), -1, false);
}

void load(const WorkerSetup& setup) {
  run_setup_call(setup.preload);
  if (sys::thread_count() > 1) {
    throw std::runtime_error("preload has left threads behind, which copies would not have");
  }
  start::flush_streams();
}

[[noreturn]] void make_workers(const SupervisorStart& start, int line, int supervisor_pid) {
  for (;;) {
    Order order;
    sys::Fd errors;
    long length = -EAGAIN;
    while (length == -EAGAIN) {
      if (sys::becomes_readable(line, sys::kForever) < 0) sys::sleep_ns(kPauseNs);
      length = sys::receive_packet(line, std::as_writable_bytes(std::span(&order, 1)), errors);
    }
    if (length != sizeof order) start::leave_child(0);
    WorkerStart worker{start, order.id, std::nullopt, supervisor_pid, errors.get()};
    if (order.has_member != 0) worker.member = order.member;
    Message message{News::born, 0};
    {
      sys::SignalsBlocked blocked;
      const long pid = sys::clone_sibling();
      if (pid == 0) {
        blocked.keep();
        worker_main(worker);
      }
      message.number = static_cast<std::int32_t>(pid);
    }
    if (say(line, message) < 0) start::leave_child(0);
  }
}

[[noreturn]] void template_main(const SupervisorStart& start, int line, int supervisor_pid,
                                std::optional<shm::OwnerId> member) noexcept {
  become_pool_process(start, supervisor_pid, member, line);
  start::set_process_name(start.process_name);
  const std::atomic<std::uintptr_t> own_stack{
      reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0))};
  const start::ThrownTrace trace(own_stack);
  sys::try_watched(
      [&] {
        limit_inner_threads(*start.setup);
        start::run_after_fork_actions();
        load(*start.setup);
      },
      [&] {
        write_note(start.view.note(shm::kSupervisorSlot));
        say(line, Message{News::failed, 0});
        call_supervisor(start.view);
        start::leave_child(1);
      });
  // Nobody would ever give it an order.
  if (say(line, Message{News::ready, 0}) < 0) start::leave_child(1);
  call_supervisor(start.view);
  make_workers(start, line, supervisor_pid);
}

}  // namespace

int Template::start(const SupervisorStart& start, std::optional<shm::OwnerId> member) noexcept {
  sys::Fd ends[2];
  if (const int error = sys::packet_socket_pair(ends); error < 0) return error;
  start.view.note(shm::kSupervisorSlot).length.store(0, std::memory_order_relaxed);
  const int self = sys::process_id();
  sys::SignalsBlocked blocked;
  const long pid = sys::clone_quiet(pidfd_, sys::signal_number::kChildEnded);
  if (pid == 0) {
    blocked.keep();
    template_main(start, ends[1].get(), self, member);
  }
  if (pid < 0) return static_cast<int>(pid);
  pid_ = static_cast<int>(pid);
  member_ = member;
  line_ = std::move(ends[0]);
  state_ = State::loading;
  return 0;
}

void Template::listen() noexcept {
  if (state_ != State::loading || sys::becomes_readable(line_.get(), 0) != 1) return;
  Message message;
  sys::Fd nothing;
  const long length =
      sys::receive_packet(line_.get(), std::as_writable_bytes(std::span(&message, 1)), nothing);
  if (length != sizeof message) return;  // it ends, which reaping it will tell
  state_ = message.news == News::ready ? State::ready : State::failed;
}

long Template::receive_number() noexcept {
  if (sys::becomes_readable(line_.get(), sys::now_ns() + kLongestCopyNs) != 1) return -ETIMEDOUT;
  Message message;
  sys::Fd nothing;
  const long length =
      sys::receive_packet(line_.get(), std::as_writable_bytes(std::span(&message, 1)), nothing);
  if (length != sizeof message || message.news != News::born) return -EPIPE;
  // It has run the user's code: what it says is input.
  if (message.number > 0 && (message.number == pid_ || !sys::is_child(message.number))) {
    return -EPIPE;
  }
  return message.number;
}

long Template::bear(shm::OwnerId id, std::optional<shm::OwnerId> member, int errors,
                    sys::Fd& pidfd) noexcept {
  const Order order{id, member.value_or(shm::OwnerId{}), member ? 1U : 0U};
  long number = sys::send_packet(line_.get(), std::as_bytes(std::span(&order, 1)), errors, false);
  if (number == 0) number = receive_number();
  if (number > 0) {
    pidfd.reset(sys::open_pidfd(static_cast<int>(number)));
    if (pidfd) return number;
    sys::kill_by_number(static_cast<int>(number), sys::signal_number::kKill);
    number = pidfd.get();
    pidfd.release();
    return number;
  }
  if (number == -EPIPE || number == -ETIMEDOUT || number == 0) {
    // It can't be relied on.
    sys::send_signal(pidfd_.get(), sys::signal_number::kKill);
    state_ = State::failed;
  }
  return number == 0 ? -EPIPE : number;
}

void Template::gone() noexcept {
  state_ = State::none;
  pid_ = 0;
  pidfd_.reset();
  line_.reset();
  member_.reset();
}

}  // namespace brood::pool
