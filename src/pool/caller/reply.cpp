#include "pool/caller/reply.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>

#include "brood/error.hpp"
#include "pool/protocol/exception.hpp"
#include "start/backtrace.hpp"
#include "sys/process.hpp"

namespace brood::pool {

using detail::TaskReply;
using detail::TaskTicket;
using shm::ReplyKind;

namespace {

TaskReply::Kind kind_of(ReplyKind kind) noexcept {
  if (kind == ReplyKind::died_block) return TaskReply::Kind::died;
  const bool value = kind == ReplyKind::value_inline || kind == ReplyKind::value_block;
  return value ? TaskReply::Kind::value : TaskReply::Kind::exception;
}

TaskReply in_block(ReplyKind kind, std::span<const std::byte> place,
                   const Records& records) noexcept {
  shm::BlockRef ref;
  std::memcpy(&ref, place.data(), sizeof ref);
  if (records.reach_in_outbox(ref) != 0) return {TaskReply::Kind::out_of_reach, {}};
  const std::span<const std::byte> packet = records.outbox_block(ref);
  shm::PacketHeader header{};
  if (packet.size() < sizeof header) return {};
  std::memcpy(&header, packet.data(), sizeof header);
  if (header.length > packet.size() - sizeof header) return {};
  return {kind_of(kind), packet.subspan(sizeof header, header.length)};
}

// `bytes` is the size of an inline reply.
TaskReply in_place(ReplyKind kind, std::span<const std::byte> place, std::size_t bytes,
                   const Records& records) noexcept {
  switch (kind) {
    case ReplyKind::none:
      return {TaskReply::Kind::no_room, {}};
    case ReplyKind::value_inline:
    case ReplyKind::exception_inline:
      if (bytes > place.size()) return {};
      return {kind_of(kind), place.first(bytes)};
    case ReplyKind::value_block:
    case ReplyKind::exception_block:
      return in_block(kind, place, records);
    case ReplyKind::died:
      return {TaskReply::Kind::died,
              place.first(place.size() >= sizeof(shm::DeathNote) ? sizeof(shm::DeathNote)
                                                                 : sizeof(shm::CellDeathNote))};
    case ReplyKind::died_block: {
      TaskReply reply = in_block(kind, place, records);
      const bool is_note = reply.kind == TaskReply::Kind::died;
      return is_note && reply.bytes.size() < sizeof(shm::DeathNote) ? TaskReply{} : reply;
    }
    case ReplyKind::expired:
      return {TaskReply::Kind::timed_out, place};
    default:
      return {};
  }
}

// What makes no sense is left out: how the worker died is known without it.
void read_evidence(std::span<const std::byte> bytes, Death& death) {
  shm::DeathEvidence evidence{};
  if (bytes.size() < sizeof evidence) return;
  std::memcpy(&evidence, bytes.data(), sizeof evidence);
  bytes = bytes.subspan(sizeof evidence);
  if (evidence.trace_bytes > bytes.size()) return;
  death.backtrace = start::describe_trace(bytes.first(evidence.trace_bytes));
  bytes = bytes.subspan(evidence.trace_bytes);
  if (evidence.stderr_bytes > bytes.size()) return;
  death.stderr_tail.assign(reinterpret_cast<const char*>(bytes.data()), evidence.stderr_bytes);
}

// The outcome that the record's word says by itself, whatever the record holds.
std::optional<TaskReply> settled_reply(const shm::TaskState& state) noexcept {
  const auto word = shm::TaskWord::unpack(state.word.load(std::memory_order_acquire));
  if (!word.settled) return std::nullopt;
  return TaskReply{word.expired ? TaskReply::Kind::timed_out : TaskReply::Kind::cancelled, {}};
}

// "1500 ms"
std::string text_of(std::int64_t ns) {
  struct Unit {
    std::int64_t ns;
    const char* name;
  };
  for (const Unit& unit : {Unit{1'000'000'000, " s"}, {1'000'000, " ms"}, {1000, " us"}}) {
    if (ns % unit.ns == 0) return std::to_string(ns / unit.ns) + unit.name;
  }
  return std::to_string(ns) + " ns";
}

// What is known of a task besides its reply, for the text of a TaskTimeout.
struct TaskFacts {
  std::string name;
  std::uint32_t runs = 0;  // of one that was ended by a limit
  std::int64_t timeout_ns = shm::kNoLimitNs;
  std::int64_t deadline_ns = shm::kNoLimitNs;
};

// How often a task that has missed a limit was begun, or an element of it that nothing else is
// known of.
std::uint32_t count_runs(const PoolView& view, TaskTicket task, std::uint32_t element) noexcept {
  shm::TaskState& state = view.state(task.index);
  if (!view.request(task.index).cells) {
    return std::atomic_ref(state.runs).load(std::memory_order_relaxed);
  }
  const bool is_next = element == state.progress.load(std::memory_order_relaxed);
  return is_next ? state.attempts.load(std::memory_order_relaxed) : 0;
}

[[noreturn]] void throw_timed_out(std::span<const std::byte> late_note, const TaskFacts& task) {
  shm::LateNote note{task.runs, 0};
  if (late_note.size() >= sizeof note) std::memcpy(&note, late_note.data(), sizeof note);
  const auto count = static_cast<int>(std::min(note.attempts, std::uint32_t{0xffff}));
  std::string what = "brood: " + task.name;
  if (count == 0) {
    what += " missed its deadline before it was run";
  } else if (task.timeout_ns == shm::kNoLimitNs) {
    what += " missed its deadline";
  } else {
    what += " ran for longer than its timeout of " + text_of(task.timeout_ns);
    // Which of them it was has not been written down.
    if (task.deadline_ns != shm::kNoLimitNs) what += ", or missed its deadline";
  }
  if (count > 1) what += " (attempt " + std::to_string(count) + ")";
  throw TaskTimeout(what, count);
}

}  // namespace

void tell_causes(std::uint32_t causes, std::uint64_t memory_limit_bytes, Death& death) noexcept {
  death.out_of_memory = (causes & shm::kOutOfMemory) != 0;
  if ((causes & shm::kOverMemoryLimit) != 0) death.memory_limit_bytes = memory_limit_bytes;
  death.stack_overflow = (causes & shm::kStackOverflow) != 0;
}

Death read_death(std::span<const std::byte> bytes, std::uint64_t memory_limit_bytes) {
  Death death;
  std::uint32_t wait_status = 0;
  if (bytes.size() >= sizeof(shm::DeathNote)) {
    shm::DeathNote note{};
    std::memcpy(&note, bytes.data(), sizeof note);
    death.pid = note.pid;
    wait_status = note.wait_status;
    death.fault_address = note.fault_address;
    death.attempts = static_cast<int>(note.attempts);
    tell_causes(note.causes, memory_limit_bytes, death);
  } else {
    shm::CellDeathNote note{};
    std::memcpy(&note, bytes.data(), sizeof note);
    death.pid = note.pid;
    wait_status = note.wait_status;
    death.attempts = static_cast<int>(note.attempts & shm::kCellAttempts);
    tell_causes(std::uint32_t{note.attempts} >> shm::kCellCausesShift, memory_limit_bytes, death);
  }
  if (bytes.size() > sizeof(shm::DeathNote)) {
    read_evidence(bytes.subspan(sizeof(shm::DeathNote)), death);
  }
  const auto status = sys::ExitStatus::from_wait_status(static_cast<int>(wait_status));
  death.signal = status.signal;
  death.exit_code = status.code;
  death.core_dumped = status.core;
  return death;
}

TaskReply read_reply(const PoolView& view, const Records& records, TaskTicket task) noexcept {
  shm::TaskState& state = view.state(task.index);
  if (const auto settled = settled_reply(state)) return *settled;
  // Read once: what is checked has to be what is used.
  const std::uint32_t length = std::atomic_ref(state.length).load(std::memory_order_relaxed);
  const ReplyKind kind = std::atomic_ref(state.kind).load(std::memory_order_relaxed);
  return in_place(kind, state.reply, length, records);
}

TaskReply read_element_reply(const PoolView& view, const Records& records, TaskTicket task,
                             std::uint32_t index) noexcept {
  shm::TaskState& state = view.state(task.index);
  // Of a chunk that was stopped, what had ended by then stands.
  if (const auto settled = settled_reply(state)) {
    TaskReply reply = *settled;
    reply.element = index;
    if (index >= state.progress.load(std::memory_order_acquire)) return reply;
  }
  const ReplyKind whole = std::atomic_ref(state.kind).load(std::memory_order_relaxed);
  if (whole == ReplyKind::none) return {TaskReply::Kind::no_room, {}};
  if (whole != ReplyKind::cells) return {};
  const shm::TaskRequest& request = view.request(task.index);
  if (records.reach_in_outbox(request.cells) != 0) return {TaskReply::Kind::out_of_reach, {}};
  const ElementCells all = records.cells_of(request);
  if (index >= all.kinds.size()) return {};
  const auto kind =
      static_cast<ReplyKind>(std::atomic_ref(all.kinds[index]).load(std::memory_order_relaxed));
  const auto cell = all.cells.subspan(std::size_t{index} * request.cell_bytes, request.cell_bytes);
  TaskReply reply = in_place(kind, cell, cell.size(), records);
  reply.element = index;
  return reply;
}

std::span<const std::byte> read_values_in_cells(const PoolView& view, const Records& records,
                                                TaskTicket task) noexcept {
  shm::TaskState& state = view.state(task.index);
  const shm::TaskRequest& request = view.request(task.index);
  const ReplyKind whole = std::atomic_ref(state.kind).load(std::memory_order_relaxed);
  if (settled_reply(state) || whole != ReplyKind::cells) return {};
  if (records.reach_in_outbox(request.cells) != 0) return {};
  const ElementCells all = records.cells_of(request);
  return all.hold_values_only() ? all.cells : std::span<std::byte>();
}

void throw_reply(const PoolView& view, TaskTicket task, const TaskReply& reply, std::string name) {
  switch (reply.kind) {
    case TaskReply::Kind::exception: {
      RemoteInfo info;
      info.task = std::move(name);
      throw_encoded(reply.bytes, std::move(info));
    }
    case TaskReply::Kind::cancelled:
      throw Cancelled("brood: " + name + " was cancelled");
    case TaskReply::Kind::timed_out: {
      const shm::TaskRequest& request = view.request(task.index);
      throw_timed_out(reply.bytes, {std::move(name), count_runs(view, task, reply.element),
                                    request.timeout_ns, request.deadline_ns});
    }
    case TaskReply::Kind::no_room:
      throw ArenaFull("brood: the task ended with an error for which there was no shared memory");
    case TaskReply::Kind::out_of_reach:
      throw ArenaFull("brood: the system refuses the memory that reading a result takes");
    default:
      throw_overwritten();
  }
}

void throw_overwritten() {
  throw BrokenPool("brood: what was known of this task was overwritten by a worker that crashed");
}

}  // namespace brood::pool
