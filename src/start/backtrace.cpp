#include "start/backtrace.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "shm/trace.hpp"
#include "start/demangle.hpp"
#include "sys/identity.hpp"
#include "sys/symbols.hpp"

namespace brood::start {

namespace {

std::string hex(std::uint64_t number) {
  std::array<char, 24> text;
  std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(number));
  return text.data();
}

// A file and build id, with the places in it that have been asked for.
using ModuleKey = std::pair<std::string, std::string>;
using Places = std::map<std::uint64_t, std::string>;

// What was found out before. Crashes of one kind come in numbers, and a table of symbols may take
// as long to read as all the rest of a death.
class KnownPlaces {
 public:
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
      places[unknown[i]] = symbol.name.empty() ? "?"
                                               : demangle(symbol.name.c_str()) + " + " +
                                                     hex(unknown[i] - symbol.begin);
      ++count_;
    }
    std::vector<std::string> texts;
    for (const std::uint64_t address : addresses) texts.push_back(places[address]);
    return texts;
  }

  [[nodiscard]] bool is_mine() const noexcept { return token_ == sys::process_token(); }

 private:
  static constexpr std::size_t kMostKept = 4096;
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
    auto fresh = std::make_unique<KnownPlaces>();
    if (known.compare_exchange_strong(ours, fresh.get(), std::memory_order_acq_rel)) {
      ours = fresh.release();
    }
  }
  return *ours;
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
    const auto found = known_places().describe(
        {trace.modules[module].path, trace.modules[module].build_id}, addresses);
    for (std::size_t i = 0; i < frames.size(); ++i) texts[frames[i]] = found[i];
  }
  std::string all;
  for (std::size_t i = 0; i < trace.frames.size(); ++i) {
    const shm::ReadFrame& frame = trace.frames[i];
    std::string path = "?";
    if (frame.module != SIZE_MAX) {
      path = trace.modules[frame.module].path;
      if (path.empty()) path = sys::program_path();
    }
    all +=
        "#" + std::to_string(i) + " " + texts[i] + " at " + path + "[" + hex(frame.address) + "]\n";
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

}  // namespace brood::start
