#include "start/current.hpp"

#include <atomic>
#include <utility>

#include "brood/error.hpp"
#include "start/birth.hpp"
#include "start/process_name.hpp"
#include "warden/family.hpp"

namespace brood {

namespace start {

namespace {

struct Life {
  std::string prefix;  // of children's names
  ParentProcess parent;
  std::atomic<unsigned> children{0};
  std::atomic<int> default_method{-1};  // a StartMethod; -1: none was set
};

Life& life() noexcept {
  static auto* const the_life = new Life;  // NOLINT(bugprone-unhandled-exception-at-new)
  return *the_life;
}

// Made before there are threads; see start/process_name.cpp.
[[maybe_unused]] const bool made_early = (static_cast<void>(life()), true);

bool has_nursery() noexcept {
  const warden::Family* family = warden::Family::current();
  return family != nullptr && family->has_nursery();
}

}  // namespace

void begin_life(const std::string& name, const std::string& parent_name, int parent_pid,
                sys::Fd parent_pidfd) {
  set_process_name(name);
  life().prefix = name;
  life().parent = {parent_pid, parent_name,
                   std::make_shared<const sys::Fd>(std::move(parent_pidfd))};
  life().children.store(0);
}

const ParentProcess& parent_of_this() noexcept { return life().parent; }

std::string next_child_name() {
  const std::string number = std::to_string(life().children.fetch_add(1) + 1);
  return life().prefix.empty() ? "Process-" + number : life().prefix + ":" + number;
}

void adopt_default_start_method(std::optional<StartMethod> method) noexcept {
  life().default_method.store(method ? static_cast<int>(*method) : -1);
}

std::optional<StartMethod> default_start_method() noexcept {
  const int set = life().default_method.load();
  return set >= 0 ? std::optional(static_cast<StartMethod>(set)) : std::nullopt;
}

Choice choose(std::optional<StartMethod> wanted) {
  if (is_unborn()) {
    throw StartError(
        "brood: this process was spawned and is to run one function, but main() starts something "
        "before it calls brood::init(): call init() first");
  }
  const bool asked_for = wanted.has_value() || life().default_method.load() >= 0;
  const StartMethod method = wanted.value_or(start_method());
  if (method != StartMethod::fork && !has_nursery()) {
    throw StartError("brood: StartMethod::" + std::string(name_of(method)) +
                     " needs brood::init(argc, argv) at the start of main()");
  }
  return {method, asked_for};
}

}  // namespace start

std::string_view name_of(StartMethod method) noexcept {
  switch (method) {
    case StartMethod::fork:
      return "fork";
    case StartMethod::forkserver:
      return "forkserver";
    case StartMethod::spawn:
      return "spawn";
  }
  return "unknown";
}

StartMethod start_method() noexcept {
  const int set = start::life().default_method.load();
  if (set >= 0) return static_cast<StartMethod>(set);
  return start::has_nursery() ? StartMethod::forkserver : StartMethod::fork;
}

void set_start_method(StartMethod method) {
  static_cast<void>(start::choose(method));
  start::adopt_default_start_method(method);
}

}  // namespace brood
