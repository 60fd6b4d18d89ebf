#include "sys/modules.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace brood::sys {

std::string_view build_id_in(const char* notes, std::size_t bytes) noexcept {
  constexpr std::size_t kAlign = 4;
  const auto rounded = [](std::size_t n) { return (n + kAlign - 1) / kAlign * kAlign; };
  for (std::size_t at = 0; at + sizeof(ElfW(Nhdr)) <= bytes;) {
    ElfW(Nhdr) header;
    std::memcpy(&header, notes + at, sizeof header);
    const std::size_t name = at + sizeof header;
    const std::size_t content = name + rounded(header.n_namesz);
    const std::size_t next = content + rounded(header.n_descsz);
    if (next > bytes || next <= at) return {};
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == sizeof "GNU" &&
        std::memcmp(notes + name, "GNU", sizeof "GNU") == 0) {
      return {notes + content, header.n_descsz};
    }
    at = next;
  }
  return {};
}

namespace {

int add_module(dl_phdr_info* info, std::size_t /*size*/, void* context) {
  Module module;
  module.name = info->dlpi_name != nullptr ? info->dlpi_name : "";
  module.begin = UINT64_MAX;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = info->dlpi_phdr[i];
    const std::uint64_t begin = info->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD) {
      module.begin = std::min(module.begin, begin);
      module.end = std::max<std::uint64_t>(module.end, begin + part.p_memsz);
    }
    if (part.p_type == PT_NOTE && module.build_id.empty()) {
      module.build_id = build_id_in(reinterpret_cast<const char*>(begin), part.p_memsz);
    }
  }
  if (module.begin < module.end) {
    static_cast<std::vector<Module>*>(context)->push_back(std::move(module));
  }
  return 0;
}

}  // namespace

std::vector<Module> loaded_modules() {
  std::vector<Module> modules;
  ::dl_iterate_phdr(add_module, &modules);
  return modules;
}

AnyFunction find_function(const char* name) noexcept {
  return reinterpret_cast<AnyFunction>(::dlsym(RTLD_DEFAULT, name));
}

}  // namespace brood::sys
