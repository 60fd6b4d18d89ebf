#include "start/backtrace.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <string_view>
#include <utility>
#include <vector>

#include "brood/backtrace.hpp"
#include "shm/trace.hpp"
#include "start/demangle.hpp"
#include "sys/hexadecimal.hpp"
#include "sys/identity.hpp"
#include "sys/stack.hpp"
#include "sys/symbols.hpp"

namespace brood::start {

namespace {

constexpr const char* kUnknown = "?";

// A file and build id, with the places in it that have been asked for.
using ModuleKey = std::pair<std::string, std::string>;
using Places = std::map<std::uint64_t, std::string>;

// What was found out before. Crashes of one kind come in numbers, and a table of symbols may take
// as long to read as all the rest of a death.
class KnownPlaces {
 public:
  // `copied`: what a fork has copied, which nobody can free. Kept in reach, so that it is no leak.
  explicit KnownPlaces(const KnownPlaces* copied) noexcept : copied_(copied) {}

  // For `addresses` in a module, "function(args) + 0x1f".
  std::vector<std::string> describe(const ModuleKey& module,
                                    const std::vector<std::uint64_t>& addresses) {
    const std::lock_guard lock(mutex_);
    if (count_ > kMostKept) {
      modules_.clear();
      count_ = 0;
    }
    Places& places = modules_[module];
    std::vector<std::uint64_t> unknown;
    for (const std::uint64_t address : addresses) {
      if (!places.contains(address)) unknown.push_back(address);
    }
    const char* path = module.first.empty() ? "/proc/self/exe" : module.first.c_str();
    const std::vector<sys::Symbol> symbols = sys::find_symbols(path, module.second, unknown);
    for (std::size_t i = 0; i < unknown.size(); ++i) {
      const sys::Symbol& symbol = symbols[i];
      places[unknown[i]] = symbol.name.empty() ? kUnknown
                                               : demangle(symbol.name.c_str()) + " + " +
                                                     sys::hexadecimal(unknown[i] - symbol.begin);
      ++count_;
    }
    std::vector<std::string> texts;
    for (const std::uint64_t address : addresses) texts.push_back(places[address]);
    return texts;
  }

  [[nodiscard]] bool is_mine() const noexcept { return token_ == sys::process_token(); }

 private:
  static constexpr std::size_t kMostKept = 4096;
  [[maybe_unused]] const KnownPlaces* const copied_;
  const std::uint64_t token_ = sys::process_token();
  std::mutex mutex_;
  std::map<ModuleKey, Places> modules_;
  std::size_t count_ = 0;
};

KnownPlaces& known_places() {
  static std::atomic<KnownPlaces*> known{nullptr};
  KnownPlaces* ours = known.load(std::memory_order_acquire);
  // What a fork has copied may be locked, or half written, for ever.
  while (ours == nullptr || !ours->is_mine()) {
    auto fresh = std::make_unique<KnownPlaces>(ours);
    if (known.compare_exchange_strong(ours, fresh.get(), std::memory_order_acq_rel)) {
      ours = fresh.release();
    }
  }
  return *ours;
}

bool is_of_services(std::string_view function) noexcept {
  constexpr std::array<std::string_view, 3> kNames = {
      "brood::pool::", "brood::start::", "brood::sys::"};
  // Behind that are other functions' names.
  const std::string_view own = function.substr(0, function.find_first_of("<("));
  return std::ranges::any_of(kNames, [&](auto name) { return own.find(name) <= sizeof "void"; });
}

// What lies between the library and a function that it was given. Some names with generic lambdas
// in them can't be demangled.
bool is_trampoline(std::string_view function) noexcept {
  constexpr std::array<std::string_view, 11> kStandard = {"std::__invoke",
                                                          "std::invoke<",
                                                          "std::apply<",
                                                          "std::__apply_impl<",
                                                          "std::_Function_handler<",
                                                          "std::function<",
                                                          "_ZSt13__invoke_impl",
                                                          "_ZSt8__invoke",
                                                          "_ZSt6invoke",
                                                          "_ZSt5apply",
                                                          "_ZSt12__apply_impl"};
  const std::string_view own = function.substr(0, function.find_first_of("<("));
  return is_of_services(function) || own.find("brood::detail::") <= sizeof "void" ||
         own.find("N5brood6detail") <= sizeof "_ZZZNK" ||
         std::ranges::any_of(kStandard, [&](auto name) {
           const std::size_t at = function.find(name);
           return at != std::string_view::npos && (at == 0 || function[at - 1] == ' ');
         });
}

// How many are left without those that end them. A function that was inlined into its trampoline
// is still named by that.
std::size_t without_trampolines(const std::vector<std::string>& texts) noexcept {
  std::size_t with = texts.size();
  while (with > 0 && is_of_services(texts[with - 1])) --with;
  std::size_t without = with;
  while (without > 0 && is_trampoline(texts[without - 1])) --without;
  return without > 0 ? without : with;
}

std::string describe(const shm::ReadTrace& trace) {
  std::vector<std::string> texts(trace.frames.size(), "?");
  for (std::size_t module = 0; module < trace.modules.size(); ++module) {
    std::vector<std::size_t> frames;
    std::vector<std::uint64_t> addresses;
    for (std::size_t i = 0; i < trace.frames.size(); ++i) {
      if (trace.frames[i].module != module) continue;
      frames.push_back(i);
      addresses.push_back(trace.frames[i].address);
    }
    // Only what is asked for counts towards what is remembered.
    if (frames.empty()) continue;
    const auto found = known_places().describe(
        {trace.modules[module].path, trace.modules[module].build_id}, addresses);
    for (std::size_t i = 0; i < frames.size(); ++i) texts[frames[i]] = found[i];
  }
  std::string all;
  const std::size_t count = without_trampolines(texts);
  for (std::size_t i = 0; i < count; ++i) {
    const shm::ReadFrame& frame = trace.frames[i];
    std::string path = "?";
    if (frame.module != SIZE_MAX) {
      path = trace.modules[frame.module].path;
      if (path.empty()) path = sys::program_path();
    }
    all += "#" + std::to_string(i) + " " + texts[i] + " at " + path + "[" +
           sys::hexadecimal(frame.address) + "]\n";
  }
  return all;
}

}  // namespace

std::string describe_trace(std::span<const std::byte> trace) noexcept {
  try {
    return describe(shm::read_trace(trace));
  } catch (...) {
    return {};
  }
}

std::optional<std::string> name_of_function(const void* code) {
  constexpr std::string_view kBegin = " + 0x0";
  const auto address = reinterpret_cast<std::uintptr_t>(code);
  const sys::LoadedCode module = sys::code_at(address);
  if (module.name == nullptr) return std::string();
  const std::string text =
      known_places()
          .describe({module.name, std::string(module.build_id)}, {address - module.bias})
          .front();
  if (text == kUnknown) return std::string();
  if (!text.ends_with(kBegin)) return std::nullopt;
  return text.substr(0, text.size() - kBegin.size());
}

}  // namespace brood::start

namespace brood {

std::string Backtrace::text() const noexcept { return start::describe_trace(trace_); }

std::ostream& operator<<(std::ostream& stream, const Backtrace& backtrace) {
  return stream << backtrace.text();
}

}  // namespace brood
