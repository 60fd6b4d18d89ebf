#include "pool/caller/kept_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ranges>
#include <span>
#include <utility>

#include "brood/codec.hpp"
#include "brood/error.hpp"
#include "start/backtrace.hpp"
#include "start/printable.hpp"
#include "sys/fd.hpp"
#include "sys/hexadecimal.hpp"
#include "sys/modules.hpp"
#include "sys/new_file.hpp"
#include "sys/random.hpp"
#include "sys/syscall.hpp"

namespace brood::pool {

namespace {

constexpr std::array<char, 16> kMagic = {'b', 'r', 'o', 'o', 'd', ' ', 'k', 'e',
                                         'p', 't', ' ', 't', 'a', 's', 'k', '\n'};
constexpr std::uint32_t kVersion = 2;

struct Prefix {
  std::array<char, 16> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t reserved = 0;
  std::uint64_t details_bytes = 0;
  std::uint64_t all_bytes = 0;  // of the file
  std::uint64_t checksum = 0;   // of the file, this field left out
};
static_assert(sizeof(Prefix) == 48);

// FNV-1a: no byte can change alone.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    for (const std::byte byte : bytes) {
      hash_ = (hash_ ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
    }
  }
  [[nodiscard]] std::uint64_t value() const noexcept { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325U;
};

std::span<const std::byte> checked_part(const Prefix& prefix) noexcept {
  return std::as_bytes(std::span(&prefix, 1)).first(offsetof(Prefix, checksum));
}

[[noreturn]] void refuse(const std::string& source, const std::string& why) {
  throw DecodeError("brood: " + source + " " + why);
}

Prefix check_prefix(std::span<const std::byte> bytes, std::uint64_t file_bytes,
                    const std::string& source) {
  Prefix prefix;
  if (bytes.size() < kMagic.size() ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    refuse(source, "is no file of a task that was kept");
  }
  if (bytes.size() < sizeof prefix) refuse(source, "is cut off");
  std::memcpy(&prefix, bytes.data(), sizeof prefix);
  if (prefix.version != kVersion) {
    refuse(source, "was written by another version of brood (format " +
                       std::to_string(prefix.version) + ", not " + std::to_string(kVersion) + ")");
  }
  if (file_bytes < prefix.all_bytes) refuse(source, "is cut off");
  if (file_bytes > prefix.all_bytes) refuse(source, "has something behind its end");
  if (prefix.details_bytes > prefix.all_bytes - sizeof prefix) refuse(source, "is damaged");
  return prefix;
}

// Takes `count` bytes off the front of `rest`.
std::span<const std::byte> take(std::span<const std::byte>& rest, std::uint64_t count,
                                const std::string& source) {
  if (count > rest.size()) refuse(source, "is damaged: it is shorter than it says");
  const auto taken = rest.first(static_cast<std::size_t>(count));
  rest = rest.subspan(static_cast<std::size_t>(count));
  return taken;
}

bool is_kind(detail::ThunkKind kind) noexcept {
  return kind == detail::ThunkKind::call || kind == detail::ThunkKind::map ||
         kind == detail::ThunkKind::process;
}

void check_details(const KeptDetails& details, const std::string& source) {
  if (details.calls.empty()) refuse(source, "is damaged: it has no task");
  for (const KeptCall& call : details.calls) {
    const bool is_task = &call == &details.calls.back();
    if ((call.step == shm::SetupStep::none) != is_task || call.step > shm::SetupStep::prepare ||
        !is_kind(call.kind) || (call.kind == detail::ThunkKind::process) == is_task) {
      refuse(source, "is damaged: its calls make no sense");
    }
  }
  const bool is_map = details.calls.back().kind == detail::ThunkKind::map;
  if (is_map ? details.element >= details.elements : details.elements != 0) {
    refuse(source, "is damaged: it has no such element");
  }
}

// What a file name can have without trouble, of a type's name.
std::string short_name(std::string_view text) {
  constexpr std::size_t kMostBytes = 40;
  std::string name;
  for (const char c : text) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
    if (plain) name += c;
    if (!plain && !name.empty() && name.back() != '_') name += '_';
    if (name.size() == kMostBytes) break;
  }
  while (!name.empty() && name.back() == '_') name.pop_back();
  return name.empty() ? "task" : name;
}

// The user's name for it, or what it calls, without what a type's name has around it.
std::string_view plain_name(const KeptDetails& details) {
  constexpr std::string_view kUnnamed = "(anonymous namespace)::";
  if (details.calls.empty()) return details.task;
  const KeptCall& call = details.calls.back();
  if (details.task != call.name || call.function_name.empty()) return details.task;
  std::string_view name = call.function_name;
  for (;;) {
    const std::size_t at = name.find(kUnnamed);
    if (at == std::string_view::npos) return name.substr(0, name.find('('));
    name.remove_prefix(at + kUnnamed.size());
  }
}

// "pool-task-PID-NUMBER-RANDOM.brood"
std::string file_name(const KeptDetails& details) {
  std::array<std::byte, 4> random{};
  sys::random_bytes(random);
  std::string name = short_name(details.pool) + "-" + short_name(plain_name(details)) + "-" +
                     std::to_string(details.pid) + "-" + std::to_string(details.number) + "-";
  sys::append_hexadecimal(name, random);
  return name + ".brood";
}

std::vector<std::byte> to_bytes(const KeptDetails& details) {
  std::vector<std::byte> bytes(detail::encoded_size(details));
  detail::Writer writer(bytes);
  detail::encode_untagged(details, writer);
  return bytes;
}

}  // namespace

// ---- code

std::optional<CodePlace> place_of(const void* code) {
  const auto address = reinterpret_cast<std::uintptr_t>(code);
  for (const sys::Module& module : sys::loaded_modules()) {
    if (address < module.begin || address >= module.end) continue;
    return CodePlace{module.name, module.build_id, module.end - module.begin,
                     address - module.begin};
  }
  return std::nullopt;
}

const void* code_at(const CodePlace& place) {
  for (const sys::Module& module : sys::loaded_modules()) {
    const bool same = module.build_id == place.build_id &&
                      module.end - module.begin == place.module_bytes &&
                      (!place.build_id.empty() || module.name == place.module);
    if (same && place.offset < place.module_bytes) {
      return reinterpret_cast<const void*>(module.begin + place.offset);
    }
  }
  return nullptr;
}

std::optional<std::string> name_of_function(const void* function) {
  return start::name_of_function(function);
}

// ---- writing

std::vector<std::byte> kept_file_prefix(std::size_t details_bytes,
                                        std::span<const std::span<const std::byte>> rest) {
  Prefix prefix;
  prefix.details_bytes = details_bytes;
  prefix.all_bytes = sizeof prefix;
  for (const auto part : rest) prefix.all_bytes += part.size();
  Checksum checksum;
  checksum.add(checked_part(prefix));
  for (const auto part : rest) checksum.add(part);
  prefix.checksum = checksum.value();
  const auto bytes = std::as_bytes(std::span(&prefix, 1));
  return {bytes.begin(), bytes.end()};
}

std::string write_kept_file(const std::string& directory, const KeptDetails& details,
                            std::span<const std::span<const std::byte>> calls) {
  const std::vector<std::byte> text = to_bytes(details);
  std::vector<std::span<const std::byte>> parts = {text};
  parts.insert(parts.end(), calls.begin(), calls.end());
  const std::vector<std::byte> prefix = kept_file_prefix(text.size(), parts);
  sys::NewFile file;
  sys::require(file.create(directory), "making a file for a task that died");
  sys::require(file.append(prefix), "writing the file of a task that died");
  for (const auto part : parts) {
    sys::require(file.append(part), "writing the file of a task that died");
  }
  constexpr int kMostNames = 8;
  for (int tries = 1;; ++tries) {
    std::string path = directory + "/" + file_name(details);
    const int named = file.give_name(path);
    if (named == -EEXIST && tries < kMostNames) continue;
    sys::require(named, "naming the file of a task that died");
    return path;
  }
}

// ---- reading

KeptFile KeptFile::read(const std::string& path) {
  std::uint64_t file_bytes = 0;
  const sys::Fd fd(sys::open_regular_file(path.c_str(), file_bytes));
  const std::string doing = "reading " + path;
  if (fd.get() == -EINVAL) refuse(path, "is no file of a task that was kept");
  sys::require(fd.get(), doing.c_str());
  // First what tells how long it may be: anything may be given to us.
  std::vector<std::byte> bytes(
      static_cast<std::size_t>(std::min<std::uint64_t>(file_bytes, sizeof(Prefix))));
  const auto fill = [&](std::size_t from) {
    const long got = sys::read_at(fd.get(), std::span(bytes).subspan(from), from);
    sys::require(got, doing.c_str());
    if (static_cast<std::size_t>(got) < bytes.size() - from) refuse(path, "is cut off");
  };
  fill(0);
  check_prefix(bytes, file_bytes, path);
  bytes.resize(static_cast<std::size_t>(file_bytes));
  fill(sizeof(Prefix));
  return parse(std::move(bytes), path);
}

KeptFile KeptFile::parse(std::vector<std::byte> bytes, const std::string& source) {
  KeptFile file;
  file.bytes_ = std::move(bytes);
  const Prefix prefix = check_prefix(file.bytes_, file.bytes_.size(), source);
  std::span<const std::byte> rest = std::span(file.bytes_).subspan(sizeof prefix);
  Checksum checksum;
  checksum.add(checked_part(prefix));
  checksum.add(rest);
  if (checksum.value() != prefix.checksum) refuse(source, "is damaged: its checksum is wrong");
  try {
    detail::Reader reader(take(rest, prefix.details_bytes, source));
    file.details_ = detail::decode_untagged<KeptDetails>(reader);
    reader.expect_end();
  } catch (const DecodeError& e) {
    refuse(source, std::string("is damaged: ") + e.what());
  }
  check_details(file.details_, source);
  for (const KeptCall& call : file.details_.calls) {
    CallBytes& parts = file.calls_.emplace_back();
    for (const std::uint64_t count : call.bound_bytes) {
      parts.bound.push_back(take(rest, count, source));
    }
    parts.arguments = take(rest, call.argument_bytes, source);
  }
  if (!rest.empty()) refuse(source, "is damaged: it is longer than it says");
  return file;
}

// ---- for people

namespace {

void add_line(std::string& text, std::string_view name, const std::string& value) {
  constexpr std::size_t kColumn = 12;
  if (value.empty()) return;
  std::string line(name);
  line.resize(std::max(kColumn, line.size() + 1), ' ');
  std::string indented;
  for (const auto part : std::views::split(std::string_view(value), '\n')) {
    start::append_printable(indented, std::string_view(part.begin(), part.end()));
    indented += '\n' + std::string(kColumn, ' ');
  }
  while (!indented.empty() && (indented.back() == ' ' || indented.back() == '\n')) {
    indented.pop_back();
  }
  text += line + indented + "\n";
}

std::string describe_call(const KeptCall& call) {
  std::string text = call.name;
  if (call.function) {
    text += call.function_name.empty()
                ? ", a function at " + sys::hexadecimal(call.function->offset)
                : ", the function " + call.function_name;
  }
  text += ", " + std::to_string(call.argument_bytes) + " bytes of arguments";
  for (const std::uint64_t bytes : call.bound_bytes) {
    text += ", " + std::to_string(bytes) + " bytes of bound values";
  }
  return text;
}

const char* name_of(shm::SetupStep step) noexcept {
  switch (step) {
    case shm::SetupStep::preload:
      return "preload";
    case shm::SetupStep::initializer:
      return "initializer";
    case shm::SetupStep::prepare:
      return "prepare";
    default:
      return "call";
  }
}

std::string describe_death(const KeptDetails& details) {
  std::string text =
      "worker " + std::to_string(details.pid) +
      (details.signal != 0 ? " was killed by signal " + std::to_string(details.signal)
                           : " exited with status " + std::to_string(details.exit_code));
  if (details.fault_address != 0) text += " at address " + sys::hexadecimal(details.fault_address);
  if (details.stack_overflow) text += " (stack overflow)";
  if (details.memory_limit_bytes != 0) {
    text += " for having more than " + std::to_string(details.memory_limit_bytes) + " bytes";
  } else if (details.out_of_memory) {
    text += " for want of memory";
  }
  if (details.attempts > 1) text += ", attempt " + std::to_string(details.attempts);
  return text;
}

}  // namespace

std::string describe(const KeptFile& file) {
  const KeptDetails& details = file.details();
  std::string text;
  add_line(text, "task", details.task);
  if (details.elements != 0) {
    add_line(text, "element",
             (details.index ? std::to_string(*details.index) + " of the range, " : std::string()) +
                 std::to_string(details.element) + " of a chunk of " +
                 std::to_string(details.elements));
  }
  add_line(text, "death", describe_death(details));
  add_line(text, "pool", details.pool);
  add_line(text, "program", details.program);
  std::string build_id;
  sys::append_hexadecimal(build_id, std::as_bytes(std::span(details.program_build_id)));
  add_line(text, "build id", build_id);
  for (const KeptCall& call : details.calls) {
    add_line(text, name_of(call.step), describe_call(call));
  }
  if (details.lacks_setup) {
    add_line(text, "without",
             "what the workers ran first (preload, initializer, prepare): it has handles");
  }
  add_line(text, "backtrace", details.backtrace);
  add_line(text, "stderr", details.stderr_tail);
  return text;
}

}  // namespace brood::pool
