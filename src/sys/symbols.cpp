#include "sys/symbols.hpp"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>

#include "sys/fd.hpp"
#include "sys/modules.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

using Header = ElfW(Ehdr);
using Section = ElfW(Shdr);
using Entry = ElfW(Sym);

class File {
 public:
  explicit File(const char* path) noexcept
      : fd_(is_plain_file(path) ? open_file(path, false) : -1) {}

  [[nodiscard]] bool read(std::uint64_t offset, std::span<std::byte> into) const noexcept {
    return fd_ && offset <= INT64_MAX &&
           read_at(fd_.get(), into, offset) == static_cast<long>(into.size());
  }
  template <class T>
  [[nodiscard]] bool read_object(std::uint64_t offset, T& into) const noexcept {
    return read(offset, std::as_writable_bytes(std::span(&into, 1)));
  }
  // Of a table's bytes from `offset` on, as many as there are.
  [[nodiscard]] std::string read_text(std::uint64_t offset, std::uint64_t most) const {
    constexpr std::size_t kMostNameBytes = 4096;
    std::string text(static_cast<std::size_t>(std::min<std::uint64_t>(most, kMostNameBytes)), '\0');
    const long length =
        read_at(fd_.get(), std::as_writable_bytes(std::span(text.data(), text.size())), offset);
    text.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    return text.substr(0, text.find('\0'));
  }

 private:
  Fd fd_;
};

std::vector<Section> read_sections(const File& file) {
  Header header;
  if (!file.read_object(0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_shentsize != sizeof(Section)) {
    return {};
  }
  std::vector<Section> sections(header.e_shnum);
  if (!file.read(header.e_shoff, std::as_writable_bytes(std::span(sections)))) return {};
  return sections;
}

bool has_other_build_id(const File& file, const std::vector<Section>& sections,
                        std::string_view build_id) {
  constexpr std::size_t kMostNoteBytes = 4096;
  if (build_id.empty()) return false;
  for (const Section& section : sections) {
    if (section.sh_type != SHT_NOTE || section.sh_size > kMostNoteBytes) continue;
    std::vector<std::byte> notes(static_cast<std::size_t>(section.sh_size));
    if (!file.read(section.sh_offset, notes)) continue;
    const std::string_view its =
        build_id_in(reinterpret_cast<const char*>(notes.data()), notes.size());
    if (!its.empty()) return its != build_id;
  }
  return true;
}

struct Table {
  Section entries;
  Section names;
};

// The one that has static functions too, if it was not stripped.
std::optional<Table> find_table(const std::vector<Section>& sections) {
  for (const auto type : {std::uint32_t{SHT_SYMTAB}, std::uint32_t{SHT_DYNSYM}}) {
    for (const Section& section : sections) {
      if (section.sh_type == type && section.sh_entsize == sizeof(Entry) &&
          section.sh_link < sections.size()) {
        return Table{section, sections[section.sh_link]};
      }
    }
  }
  return std::nullopt;
}

bool is_function(const Entry& entry) noexcept {
  constexpr unsigned kTypeBits = 0xf;
  const unsigned type = entry.st_info & kTypeBits;
  return (type == STT_FUNC || type == STT_GNU_IFUNC) && entry.st_size != 0 &&
         entry.st_shndx != SHN_UNDEF;
}

// Of several names of one function that of most general use; 0 is none.
int rank(const Entry& entry) noexcept {
  constexpr unsigned kBindingShift = 4;
  const unsigned binding = entry.st_info >> kBindingShift;
  if (binding == STB_GLOBAL) return 3;
  return binding == STB_WEAK ? 2 : 1;
}

struct Match {
  int rank = 0;
  std::uint64_t begin = 0;
  std::uint64_t name = 0;
};

void match(std::span<const Entry> entries, std::span<const std::uint64_t> addresses,
           std::span<Match> matches) noexcept {
  const auto [least, most] = std::ranges::minmax(addresses);
  for (const Entry& entry : entries) {
    if (entry.st_value > most || entry.st_value + entry.st_size <= least || !is_function(entry)) {
      continue;
    }
    for (std::size_t i = 0; i < addresses.size(); ++i) {
      if (addresses[i] - entry.st_value >= entry.st_size) continue;
      if (rank(entry) > matches[i].rank) {
        matches[i] = {rank(entry), entry.st_value, entry.st_name};
      }
    }
  }
}

}  // namespace

bool is_plain_file(const char* path) noexcept {
  struct stat info{};
  return call(SYS_newfstatat, AT_FDCWD, path, &info, 0) >= 0 && S_ISREG(info.st_mode);
}

// Neither kept nor sorted: a table may be larger than all that the program itself needs, and is
// read as fast as it is searched.
std::vector<Symbol> find_symbols(const char* path, std::string_view build_id,
                                 std::span<const std::uint64_t> addresses) {
  std::vector<Symbol> symbols(addresses.size());
  if (addresses.empty()) return symbols;
  const File file(path);
  const std::vector<Section> sections = read_sections(file);
  if (has_other_build_id(file, sections, build_id)) return symbols;
  const std::optional<Table> table = find_table(sections);
  if (!table) return symbols;

  constexpr std::size_t kEntriesAtOnce = 4096;
  std::vector<Entry> entries(kEntriesAtOnce);
  std::vector<Match> matches(addresses.size());
  constexpr std::uint64_t kMostEntries = 1U << 25U;
  const std::uint64_t count = std::min(table->entries.sh_size / sizeof(Entry), kMostEntries);
  for (std::uint64_t at = 0; at < count; at += kEntriesAtOnce) {
    const auto some = std::span(entries).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(count - at, kEntriesAtOnce)));
    if (!file.read(table->entries.sh_offset + at * sizeof(Entry), std::as_writable_bytes(some))) {
      break;
    }
    match(some, addresses, matches);
  }
  for (std::size_t i = 0; i < matches.size(); ++i) {
    if (matches[i].rank == 0 || matches[i].name >= table->names.sh_size) continue;
    symbols[i] = {file.read_text(table->names.sh_offset + matches[i].name,
                                 table->names.sh_size - matches[i].name),
                  matches[i].begin};
  }
  return symbols;
}

std::string program_path() {
  constexpr std::size_t kMostPathBytes = 4096;
  std::string path(kMostPathBytes, '\0');
  const long length = call(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path.data(), path.size());
  path.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return path;
}

}  // namespace brood::sys
