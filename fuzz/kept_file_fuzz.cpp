// Reading the file of a task that died: only DecodeError may come out, whatever is under the right
// checksum, and what was read can be told.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "brood/error.hpp"
#include "pool/caller/kept_file.hpp"

using brood::pool::KeptFile;

namespace {

void read(std::vector<std::byte> bytes) {
  try {
    const KeptFile file = KeptFile::parse(std::move(bytes), "it");
    if (file.calls().size() != file.details().calls.size()) std::abort();
    if (describe(file).empty()) std::abort();
  } catch (const brood::DecodeError&) {
    return;
  }
}

}  // namespace

// The first two bytes are the length of the details; the whole input once more as it is.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  read({bytes.begin(), bytes.end()});
  if (size < 2) return 0;
  const std::size_t details = data[0] + std::size_t{256} * data[1];
  const std::span<const std::byte> body = bytes.subspan(2);
  std::vector<std::byte> file = brood::pool::kept_file_prefix(details, std::span(&body, 1));
  file.insert(file.end(), body.begin(), body.end());
  read(std::move(file));
  return 0;
}
