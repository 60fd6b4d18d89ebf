#include "support/memory.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "support/processes.hpp"

namespace brood::test {

long pool_memory_bytes() {
  long bytes = 0;
  for (const std::string& file : open_files(getpid())) {
    if (file.find("memfd:brood:pool") == std::string::npos) continue;
    struct stat info{};
    if (fstat(std::atoi(file.c_str()), &info) == 0) bytes += info.st_blocks * 512;
  }
  return bytes;
}

}  // namespace brood::test
