// A kernel that refuses on purpose: which call, with which error, in which process of a family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace brood::test {

// What a process of a family is there for.
enum class Role : std::uint8_t {
  unknown,
  host,
  warden,
  supervisor,
  worker,
  process,  // or its keeper
  incarnation,
  other
};
inline constexpr std::size_t kRoles = 8;
const char* name_of(Role role);

// A kind of call that brood makes, and the errors that a kernel can give it: those of the manual
// page that our arguments allow, and those of a sandbox (seccomp) that forbids it.
struct CallKind {
  const char* name;
  long number;
  std::vector<int> errors;
  bool (*applies)(long a, long b) noexcept = nullptr;  // null: to every call of that number
  bool done_all_the_same = false;  // the kernel reports the error of a call that took effect
  bool rare = false;               // only threads or processes that meet by chance make it
};
const std::vector<CallKind>& call_kinds();
inline constexpr std::size_t kMaxCallKinds = 96;

// The calls that have no errors, or none that a test can give them, and why.
struct ExemptCall {
  const char* name;
  long number;
  const char* why;
};
std::span<const ExemptCall> exempt_calls();

struct PlannedFault {
  Role role = Role::unknown;
  std::size_t kind = 0;  // index into call_kinds()
  int error = 0;
  int nth = 1;            // of the calls of this kind, counted in each process for itself
  bool for_good = false;  // and all later ones, in every process of the role; else once in all
};
std::string describe(const PlannedFault& fault);

// Takes the kernel's place in the calling process, which is the host from here on, and in all
// processes that it starts. All of them share the plan and the counts, which lie in a page that the
// first use in a test program maps: a test sees what happened in its hosts.
class FaultyKernel {
 public:
  FaultyKernel();
  ~FaultyKernel();
  FaultyKernel(const FaultyKernel&) = delete;
  FaultyKernel& operator=(const FaultyKernel&) = delete;

  // The next child that this process starts by itself, the warden aside, has that role.
  static void next_child_is(Role role) noexcept;

  static void plan(const PlannedFault& fault) noexcept;
  static void heal() noexcept;     // no fault any more, in no process
  static int happened() noexcept;  // how often the planned fault did

  // In all processes, `of` of every `out_of` calls that a signal can interrupt are interrupted.
  static void interrupt(int of, int out_of) noexcept;
  static int interrupted(Role role) noexcept;

  // How many calls of a kind a process of that role has made at most since forget_counts().
  static int counted(Role role, std::size_t kind) noexcept;
  static bool was_seen(long number) noexcept;
  static void forget_counts() noexcept;
};

// Index into call_kinds() of the kind with that name; aborts if there is none.
std::size_t kind_named(const char* name);

// Makes the shared page; before the first host that is to be watched.
void prepare_faults();

}  // namespace brood::test
