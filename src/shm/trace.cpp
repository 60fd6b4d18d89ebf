#include "shm/trace.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "sys/stack.hpp"
#include "sys/thrown.hpp"

namespace brood::shm {

namespace {

constexpr std::size_t kMostPathBytes = 255;
constexpr std::size_t kMostBuildIdBytes = 64;

// Nothing that a terminal could take for a command.
bool is_printable(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) {
    constexpr unsigned char kDelete = 0x7f;
    const auto byte = static_cast<unsigned char>(c);
    return byte >= ' ' && byte != kDelete;
  });
}

}  // namespace

void TraceWriter::write_crashed(const sys::Crash& crash, std::uintptr_t end) noexcept {
  sys::walk_crashed_stack(crash, add_frame, this, end);
}

void TraceWriter::write_own(std::uintptr_t end) noexcept { sys::walk_stack(add_frame, this, end); }

void TraceWriter::write_thrown(std::uintptr_t end) noexcept {
  sys::walk_thrown_stack(add_frame, this, end);
}

bool TraceWriter::add_frame(std::uintptr_t address, void* self) noexcept {
  return static_cast<TraceWriter*>(self)->add(address);
}

bool TraceWriter::add(std::uintptr_t address) noexcept {
  if (frames_ == kMostFrames) return false;
  const sys::LoadedCode code = sys::code_at(address);
  TraceFrame frame{TraceTag::frame, kNoModule, {}};
  if (code.name != nullptr) frame.module = module_of(code.name, code.build_id, code.bias);
  const std::uint64_t place = frame.module == kNoModule ? address : address - code.bias;
  for (std::size_t i = 0; i < frame.address.size(); ++i) {
    frame.address[i] = static_cast<std::uint8_t>(place >> (8 * i));
  }
  if (!append(std::as_bytes(std::span(&frame, 1)))) return false;
  return ++frames_ < kMostFrames;
}

std::uint8_t TraceWriter::module_of(const char* name, std::string_view build_id,
                                    std::uintptr_t bias) noexcept {
  const auto known = std::span(biases_).first(modules_);
  const auto found = std::ranges::find(known, bias);
  if (found != known.end()) return static_cast<std::uint8_t>(found - known.begin());
  if (modules_ == kMostModules) return kNoModule;
  std::string_view path(name);
  path.remove_prefix(path.size() - std::min(path.size(), kMostPathBytes));
  build_id = build_id.substr(0, kMostBuildIdBytes);
  std::array<std::byte, sizeof(TraceModule) + kMostPathBytes + kMostBuildIdBytes> record;
  const TraceModule head{TraceTag::module, static_cast<std::uint8_t>(path.size()),
                         static_cast<std::uint8_t>(build_id.size())};
  std::memcpy(record.data(), &head, sizeof head);
  std::memcpy(record.data() + sizeof head, path.data(), path.size());
  std::memcpy(record.data() + sizeof head + path.size(), build_id.data(), build_id.size());
  const std::size_t bytes = sizeof head + path.size() + build_id.size();
  if (!append(std::span(record).first(bytes))) return kNoModule;
  biases_[modules_] = bias;
  return static_cast<std::uint8_t>(modules_++);
}

bool TraceWriter::append(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() > room_.size() - used_) return false;
  std::memcpy(room_.data() + used_, bytes.data(), bytes.size());
  used_ += bytes.size();
  written_.store(static_cast<std::uint32_t>(used_), std::memory_order_release);
  return true;
}

ReadTrace read_trace(std::span<const std::byte> bytes) {
  ReadTrace trace;
  while (!bytes.empty() && trace.frames.size() < kMostFrames) {
    if (static_cast<TraceTag>(bytes[0]) == TraceTag::frame) {
      TraceFrame frame;
      if (bytes.size() < sizeof frame) break;
      std::memcpy(&frame, bytes.data(), sizeof frame);
      bytes = bytes.subspan(sizeof frame);
      if (frame.module != kNoModule && frame.module >= trace.modules.size()) break;
      ReadFrame read{frame.module == kNoModule ? SIZE_MAX : frame.module, 0};
      for (std::size_t i = 0; i < frame.address.size(); ++i) {
        read.address |= std::uint64_t{frame.address[i]} << (8 * i);
      }
      trace.frames.push_back(read);
    } else if (static_cast<TraceTag>(bytes[0]) == TraceTag::module) {
      TraceModule head;
      if (bytes.size() < sizeof head || trace.modules.size() == kMostModules) break;
      std::memcpy(&head, bytes.data(), sizeof head);
      bytes = bytes.subspan(sizeof head);
      const std::size_t texts = std::size_t{head.path_bytes} + head.build_id_bytes;
      if (bytes.size() < texts) break;
      const std::string_view text(reinterpret_cast<const char*>(bytes.data()), texts);
      bytes = bytes.subspan(texts);
      const std::string_view path = text.substr(0, head.path_bytes);
      if (!is_printable(path)) break;
      trace.modules.push_back({std::string(path), std::string(text.substr(head.path_bytes))});
    } else {
      break;
    }
  }
  return trace;
}

}  // namespace brood::shm
