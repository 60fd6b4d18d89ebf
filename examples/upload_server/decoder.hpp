// A decoder as one gets them from elsewhere: right for good pictures, and trusting all others.
#pragma once

#include <cstdint>
#include <string_view>

namespace upload_server {

struct Picture {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint64_t checksum = 0;

  friend bool operator==(const Picture&, const Picture&) = default;
};

// "TOY1", width and height (16 bits, little-endian), then commands until all pixels are there:
//
//   P n c1...cn   the palette: n colours
//   R n i         n pixels of colour i
//   F i           all other pixels have colour i
//   J to          go on at this offset, to use commands again
//
// Throws std::invalid_argument for what is none of these, or ends too early. Its three bugs: it
// follows a jump to itself for ever, believes any size, and uses a palette that is not there.
Picture decode(std::string_view upload);

}  // namespace upload_server
