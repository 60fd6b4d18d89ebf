// A child that is no copy of who asked for it: born from the warden, by forkserver or spawn.
// warden/protocol.hpp shows the steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "brood/start_method.hpp"
#include "start/code_layout.hpp"
#include "start/keeper.hpp"
#include "start/surroundings.hpp"
#include "warden/warden.hpp"

namespace brood::start {

// All that a child has to know, besides descriptors.
struct Certificate {
  std::string name;
  StartMethod method = StartMethod::forkserver;
  bool service = false;                       // it sets up signals and descriptors by itself
  std::optional<StartMethod> default_method;  // that was set in the parent
  std::string parent_name;

  Keeping keeping;
  Surroundings surroundings;

  // What it runs.
  std::uint32_t thunk = 0;
  std::uint64_t thunk_hash = 0;
  std::string thunk_name;
  std::vector<std::byte> arguments;
  std::vector<std::vector<std::byte>> blobs;
  CodeLayout code;  // for spawn
};

// Comes first on the line, with the descriptors: the certificate, the working directory, then
// those of the streams that are open, those to be kept, then others that the code asks for by their
// order.
struct Passport {
  std::uint64_t certificate_bytes = 0;
  std::uint32_t has_output = 0;
  std::uint32_t has_errors = 0;
};

// In the warden's copy of itself; never returns.
[[noreturn]] void be_born(const warden::Birth& birth) noexcept;

// In a process that spawn has executed: does not return. In any other: does nothing.
void be_born_if_spawned() noexcept;
// Whether this process was spawned and has not come to init() yet: it must start nothing.
bool is_unborn() noexcept;

// In a child whose thunk runs: the descriptors that were passed for it, in their order.
std::vector<int>& passed_descriptors() noexcept;

}  // namespace brood::start
