#include "sys/stack.hpp"

#include <dlfcn.h>
#include <link.h>
#include <ucontext.h>
#include <unwind.h>

#include <cstring>

#include "sys/modules.hpp"

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
#define BROOD_CAN_FIND_CODE 1
#else
#define BROOD_CAN_FIND_CODE 0
#endif

namespace brood::sys {

namespace {

#if defined(__x86_64__)
std::uintptr_t program_counter(const ucontext_t& machine) noexcept {
  return static_cast<std::uintptr_t>(machine.uc_mcontext.gregs[REG_RIP]);
}
std::uintptr_t stack_pointer(const ucontext_t& machine) noexcept {
  return static_cast<std::uintptr_t>(machine.uc_mcontext.gregs[REG_RSP]);
}
// What a function that has not begun yet would return to.
std::uintptr_t return_address(const ucontext_t& machine) noexcept {
  return *reinterpret_cast<const std::uintptr_t*>(machine.uc_mcontext.gregs[REG_RSP]);
}
void step_out(ucontext_t& machine, std::uintptr_t to) noexcept {
  machine.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(to);
  machine.uc_mcontext.gregs[REG_RSP] += sizeof(std::uintptr_t);
}
#elif defined(__aarch64__)
std::uintptr_t program_counter(const ucontext_t& machine) noexcept {
  return machine.uc_mcontext.pc;
}
std::uintptr_t stack_pointer(const ucontext_t& machine) noexcept { return machine.uc_mcontext.sp; }
std::uintptr_t return_address(const ucontext_t& machine) noexcept {
  return machine.uc_mcontext.regs[30];
}
void step_out(ucontext_t& machine, std::uintptr_t to) noexcept { machine.uc_mcontext.pc = to; }
#else
std::uintptr_t program_counter(const ucontext_t&) noexcept { return 0; }
std::uintptr_t stack_pointer(const ucontext_t&) noexcept { return 0; }
std::uintptr_t return_address(const ucontext_t&) noexcept { return 0; }
void step_out(ucontext_t&, std::uintptr_t) noexcept {}
#endif

struct Walk {
  VisitFrame visit;
  void* context;
  std::uintptr_t end;
  std::uintptr_t begin;  // the instruction to begin with; 0: any
  bool called_from;      // `begin` is where a call returns to
  bool begun;
};

_Unwind_Reason_Code visit_frame(_Unwind_Context* frame, void* context) {
  auto& walk = *static_cast<Walk*>(context);
  int is_exact = 0;
  const std::uintptr_t address = ::_Unwind_GetIPInfo(frame, &is_exact);
  if (!walk.begun && walk.begin != 0 && address != walk.begin) return _URC_NO_REASON;
  const bool returns = is_exact == 0 || (!walk.begun && walk.called_from);
  walk.begun = true;
  if (address == 0) return _URC_END_OF_STACK;
  if (!walk.visit(returns ? address - 1 : address, walk.context)) return _URC_END_OF_STACK;
  // Where the caller's frame begins.
  if (walk.end != 0 && ::_Unwind_GetCFA(frame) > walk.end) return _URC_END_OF_STACK;
  return _URC_NO_REASON;
}

#if BROOD_CAN_FIND_CODE
std::string_view build_id_at(std::uintptr_t begin, std::uintptr_t end,
                             std::uintptr_t bias) noexcept {
  // Within what is certainly mapped.
  constexpr std::size_t kHeaderBytes = 4096;
  ElfW(Ehdr) header;
  if (end - begin < kHeaderBytes) return {};
  std::memcpy(&header, reinterpret_cast<const void*>(begin), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};
  if (header.e_phoff > kHeaderBytes ||
      header.e_phnum > (kHeaderBytes - header.e_phoff) / sizeof(ElfW(Phdr))) {
    return {};
  }
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) part;
    std::memcpy(&part, reinterpret_cast<const void*>(begin + header.e_phoff + i * sizeof part),
                sizeof part);
    const std::uintptr_t at = bias + part.p_vaddr;
    if (part.p_type != PT_NOTE || at < begin || at >= end || part.p_memsz > end - at) continue;
    const std::string_view id = build_id_in(reinterpret_cast<const char*>(at), part.p_memsz);
    if (!id.empty()) return id;
  }
  return {};
}
#endif

}  // namespace

LoadedCode code_at([[maybe_unused]] std::uintptr_t address) noexcept {
#if BROOD_CAN_FIND_CODE
  dl_find_object found;
  if (::_dl_find_object(reinterpret_cast<void*>(address), &found) != 0) return {};
  const link_map* module = found.dlfo_link_map;
  if (module == nullptr || module->l_name == nullptr) return {};
  return {module->l_name, module->l_addr,
          build_id_at(reinterpret_cast<std::uintptr_t>(found.dlfo_map_start),
                      reinterpret_cast<std::uintptr_t>(found.dlfo_map_end), module->l_addr)};
#else
  return {};
#endif
}

// Otherwise the unwinder takes the loader's lock, which a crash may have left locked.
bool can_walk_stack() noexcept { return BROOD_CAN_FIND_CODE != 0; }

void walk_stack(VisitFrame visit, void* context, std::uintptr_t end) noexcept {
  if (!can_walk_stack()) return;
  Walk walk{visit, context, end, 0, false, false};
  ::_Unwind_Backtrace(visit_frame, &walk);
}

std::uintptr_t stack_pointer(const Crash& crash) noexcept {
  return crash.machine == nullptr ? 0 : stack_pointer(*static_cast<ucontext_t*>(crash.machine));
}

void walk_crashed_stack(const Crash& crash, VisitFrame visit, void* context,
                        std::uintptr_t end) noexcept {
  if (!can_walk_stack() || crash.machine == nullptr) return;
  auto& machine = *static_cast<ucontext_t*>(crash.machine);
  const std::uintptr_t begin = program_counter(machine);
  Walk walk{visit, context, end, begin, false, false};
  if (code_at(begin).name != nullptr) {
    ::_Unwind_Backtrace(visit_frame, &walk);
    if (!walk.begun) visit(begin, context);
    return;
  }
  // A call to where no code is: nothing of it has happened but the call.
  if (!visit(begin, context)) return;
  const std::uintptr_t caller = return_address(machine);
  if (code_at(caller).name == nullptr) return;
  const ucontext_t as_it_was = machine;
  step_out(machine, caller);
  walk.begin = caller;
  walk.called_from = true;
  ::_Unwind_Backtrace(visit_frame, &walk);
  machine.uc_mcontext = as_it_was.uc_mcontext;
}

}  // namespace brood::sys
