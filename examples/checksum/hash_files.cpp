#include "hash_files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace checksum {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

struct FreeCrypto {
  void operator()(EVP_MD* algorithm) const { EVP_MD_free(algorithm); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// Everything that is dear to set up: looking an algorithm up costs more than hashing a small file.
struct Hasher {
  std::unique_ptr<EVP_MD, FreeCrypto> sha256{EVP_MD_fetch(nullptr, "SHA256", nullptr)};
  std::unique_ptr<EVP_MD_CTX, FreeCrypto> context{EVP_MD_CTX_new()};
  std::vector<unsigned char> block = std::vector<unsigned char>(kBlockBytes);

  static void check(bool success) {
    if (!success) throw std::runtime_error("libcrypto can't compute SHA-256");
  }
  void begin() { check(EVP_DigestInit_ex2(context.get(), sha256.get(), nullptr) == 1); }
  void add(std::size_t bytes) { check(EVP_DigestUpdate(context.get(), block.data(), bytes) == 1); }
  void end(Digest& digest) {
    check(EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) == 1);
  }
};

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

HashedFile failed(std::string reason) { return {.error = std::move(reason)}; }
HashedFile failed(int error_number) {
  return failed(std::generic_category().message(error_number));
}

bool same_content(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

// Since the walk saw a regular file here, anything may have taken its place: O_NONBLOCK and
// O_NOCTTY keep a pipe or a terminal from holding us up before we see what it is.
HashedFile hash_file(Hasher& hasher, const std::string& path, int no_follow) {
  const File file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | no_follow);
  if (file.fd() < 0) return errno == ELOOP ? failed("became a symbolic link") : failed(errno);
  struct stat before{};
  if (::fstat(file.fd(), &before) != 0) return failed(errno);
  if (!S_ISREG(before.st_mode)) return failed("is no regular file any more");

  HashedFile result;
  hasher.begin();
  // To its end whatever its size is said to be: files in /proc say 0.
  while (true) {
    const ssize_t got = ::read(file.fd(), hasher.block.data(), hasher.block.size());
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(errno);
    hasher.add(static_cast<std::size_t>(got));
    result.bytes += static_cast<std::size_t>(got);
  }
  struct stat after{};
  if (::fstat(file.fd(), &after) != 0) return failed(errno);
  if (!same_content(before, after)) return failed("changed while it was being read");
  hasher.end(result.digest);
  return result;
}

}  // namespace

std::vector<HashedFile> hash_files(const Batch& batch) {
  static Hasher hasher;  // made by the first task of each worker, kept for all others
  const int no_follow = batch.follow_links ? 0 : O_NOFOLLOW;
  std::vector<HashedFile> results;
  results.reserve(batch.paths.size());
  for (const std::string& path : batch.paths) {
    results.push_back(hash_file(hasher, path, no_follow));
  }
  return results;
}

}  // namespace checksum
