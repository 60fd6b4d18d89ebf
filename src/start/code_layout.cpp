#include "start/code_layout.hpp"

#include <algorithm>
#include <memory>
#include <string_view>

#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "start/seal.hpp"
#include "sys/modules.hpp"

namespace brood::start {

namespace {

struct Translation {
  std::uint64_t own_begin;
  std::uint64_t common_begin;
  std::uint64_t bytes;
};

struct Adopted {
  CodeLayout layout;
  std::vector<Translation> translations;
};
// Set once, before the process has threads; nullptr: the common layout is its own.
const Adopted* adopted = nullptr;

std::uint64_t translate(std::uint64_t address, std::uint64_t Translation::* from,
                        std::uint64_t Translation::* to) {
  if (adopted == nullptr) return address;
  for (const Translation& module : adopted->translations) {
    if (address - module.*from < module.bytes) return address - module.*from + module.*to;
  }
  throw DecodeError("brood: the function to call is in a library that this process has not loaded");
}

bool is_same_module(const sys::Module& own, const ModuleImage& other) noexcept {
  return own.name == other.name && own.build_id == other.build_id &&
         own.end - own.begin == other.end - other.begin;
}

}  // namespace

std::uint64_t hash_of_name(std::string_view name) noexcept {
  // FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

CodeLayout code_layout() {
  CodeLayout layout;
  if (adopted != nullptr) {
    layout.modules = adopted->layout.modules;
  } else {
    for (const sys::Module& module : sys::loaded_modules()) {
      layout.modules.push_back({module.name, module.build_id, module.begin, module.end});
    }
  }
  const detail::ThunkId count = detail::thunk_count();
  for (detail::ThunkId id = 1; id <= count; ++id) {
    layout.thunks.push_back(hash_of_name(detail::find_thunk(id).name));
  }
  const SealKey key = seal_key();
  layout.seal_key_first = key.first;
  layout.seal_key_second = key.second;
  return layout;
}

std::uint32_t adopt_code_layout(const CodeLayout& layout) {
  auto fresh = std::make_unique<Adopted>();
  fresh->layout = layout;
  for (const sys::Module& own : sys::loaded_modules()) {
    const auto same = std::ranges::find_if(
        layout.modules, [&](const ModuleImage& other) { return is_same_module(own, other); });
    if (same != layout.modules.end()) {
      fresh->translations.push_back({own.begin, same->begin, own.end - own.begin});
    } else if (own.name.empty()) {
      throw StartError("the program's file was replaced by another since it was started");
    }
  }
  set_seal_key({layout.seal_key_first, layout.seal_key_second});
  adopted = fresh.release();
  std::uint32_t same = 0;
  while (same < layout.thunks.size() && same < detail::thunk_count() &&
         layout.thunks[same] == hash_of_name(detail::find_thunk(same + 1).name)) {
    ++same;
  }
  return same;
}

std::uint64_t to_common_address(std::uint64_t own) {
  return translate(own, &Translation::own_begin, &Translation::common_begin);
}

std::uint64_t to_own_address(std::uint64_t common) {
  return translate(common, &Translation::common_begin, &Translation::own_begin);
}

}  // namespace brood::start
