#include "output.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

namespace checksum {
namespace {

constexpr const char* kStandardOutput = "standard output";

[[noreturn]] void fail(const std::string& name, int error_number = errno) {
  throw OutputError(name + ": " + std::generic_category().message(error_number));
}

void write_all(std::FILE* stream, const std::string& name, const std::vector<Checksum>& checksums) {
  for (const Checksum& checksum : checksums) {
    const std::string line = checksum_line(checksum);
    if (std::fwrite(line.data(), 1, line.size(), stream) != line.size()) fail(name);
  }
  if (std::fflush(stream) != 0) fail(name);
}

// Some file systems tell only now that there was no room.
void close(std::FILE* stream, const std::string& name) {
  if (std::fclose(stream) != 0) fail(name);
}

mode_t mode_for_new_file() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

// A file of a name that nobody uses, removed unless it was given its real name.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& directory)
      : path_(directory / ".checksum.XXXXXX") {
    const int fd = ::mkostemp(path_.data(), O_CLOEXEC);
    if (fd < 0) fail(path_);
    stream_ = ::fdopen(fd, "w");
  }
  ~TemporaryFile() {
    if (stream_ != nullptr) std::fclose(stream_);
    if (!renamed_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  [[nodiscard]] std::FILE* stream() const { return stream_; }

  // Once the content is on the disk: a name without content is what this class is against.
  void rename_to(const std::string& name, mode_t mode) {
    if (::fchmod(::fileno(stream_), mode) != 0 || ::fsync(::fileno(stream_)) != 0) fail(name);
    close(std::exchange(stream_, nullptr), name);
    if (::rename(path_.c_str(), name.c_str()) != 0) fail(name);
    renamed_ = true;
  }

 private:
  std::string path_;
  std::FILE* stream_ = nullptr;
  bool renamed_ = false;
};

std::filesystem::path directory_of(const std::string& file) {
  const auto directory = std::filesystem::path(file).parent_path();
  return directory.empty() ? "." : directory;
}

// A descriptor that is closed would be given to the next file that is opened, and what is meant
// for the user would end up there.
void fill_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
}

}  // namespace

Output::Output(const std::string& file) : file_(file) {
  const bool has_stdout = ::fcntl(STDOUT_FILENO, F_GETFD) >= 0;
  fill_standard_descriptors();
  if (file.empty()) {
    if (!has_stdout) fail(kStandardOutput, EBADF);
    return;
  }
  struct stat status{};
  if (::stat(file.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(file, EISDIR);
    // Devices and pipes are written to; a link stays, what it points to is replaced.
    replace_ = S_ISREG(status.st_mode);
    if (replace_) file_ = std::filesystem::canonical(file);
    if (::access(file.c_str(), W_OK) != 0) fail(file);
    mode_ = status.st_mode & 07777;
  } else if (errno == ENOENT) {
    replace_ = true;
    mode_ = mode_for_new_file();
  } else {
    fail(file);
  }
  if (replace_ && ::access(directory_of(file_).c_str(), W_OK | X_OK) != 0) fail(file);
}

void Output::write(const std::vector<Checksum>& checksums) const {
  if (replace_) return replace_file(checksums);
  if (file_.empty()) {
    write_all(stdout, kStandardOutput, checksums);
    return close(stdout, kStandardOutput);
  }
  const auto stream = std::unique_ptr<std::FILE, int (*)(std::FILE*)>(
      std::fopen(file_.c_str(), "we"), &std::fclose);
  if (stream == nullptr) fail(file_);
  write_all(stream.get(), file_, checksums);
}

void Output::replace_file(const std::vector<Checksum>& checksums) const {
  TemporaryFile temporary(directory_of(file_));
  write_all(temporary.stream(), file_, checksums);
  temporary.rename_to(file_, mode_);
}

std::string checksum_line(const Checksum& checksum) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string line;
  line.reserve(2 * checksum.digest.size() + checksum.path.size() + 3);
  if (checksum.path.find_first_of("\\\n\r") != std::string::npos) line += '\\';
  for (const unsigned byte : checksum.digest) {
    line += kHex[byte >> 4];
    line += kHex[byte & 15];
  }
  line += "  ";
  for (const char c : checksum.path) {
    switch (c) {
      case '\\':
        line += "\\\\";
        break;
      case '\n':
        line += "\\n";
        break;
      case '\r':
        line += "\\r";
        break;
      default:
        line += c;
    }
  }
  return line += '\n';
}

std::string printable(std::string_view path) {
  std::string text;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte != 0x7f && c != '\\') {
      text += c;
    } else {
      text += '\\';
      for (const int shift : {6, 3, 0}) text += static_cast<char>('0' + (byte >> shift & 7));
    }
  }
  return text;
}

}  // namespace checksum
