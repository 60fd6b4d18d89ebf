#include "decoder.hpp"

#include <cstddef>
#include <stdexcept>
#include <vector>

namespace upload_server {
namespace {

class Input {
 public:
  explicit Input(std::string_view bytes) : bytes_(bytes) {}

  std::string_view take(std::size_t count) {
    if (bytes_.size() - at_ < count) throw std::invalid_argument("the picture ends too early");
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1).front()); }
  std::uint32_t number() {
    const std::uint32_t low = byte();
    return low | std::uint32_t{byte()} << 8U;
  }
  void go_to(std::size_t offset) {
    if (offset > bytes_.size()) throw std::invalid_argument("a jump out of the picture");
    at_ = offset;
  }

 private:
  std::string_view bytes_;
  std::size_t at_ = 0;
};

std::vector<char> pixels_of(Input& in, std::size_t count) {
  std::vector<char> pixels;
  const char* palette = nullptr;
  while (pixels.size() < count) {
    switch (in.byte()) {
      case 'P':
        palette = in.take(in.byte()).data();
        break;
      case 'R': {
        const std::size_t run = in.byte();
        pixels.insert(pixels.end(), run, palette[in.byte()]);
        break;
      }
      case 'F':
        pixels.resize(count, palette[in.byte()]);
        break;
      case 'J':
        in.go_to(in.byte());
        break;
      default:
        throw std::invalid_argument("an unknown command");
    }
  }
  return pixels;
}

}  // namespace

Picture decode(std::string_view upload) {
  Input in(upload);
  if (in.take(4) != "TOY1") throw std::invalid_argument("not a TOY1 picture");
  Picture picture;
  picture.width = in.number();
  picture.height = in.number();
  for (const char pixel : pixels_of(in, std::size_t{picture.width} * picture.height)) {
    picture.checksum = picture.checksum * 31 + static_cast<std::uint8_t>(pixel);
  }
  return picture;
}

}  // namespace upload_server
