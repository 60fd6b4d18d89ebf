#include "tree_walk.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

namespace checksum {
namespace {

// As `find` joins them: a slash unless there is one.
std::string join(const std::string& directory, std::string_view name) {
  std::string path = directory;
  if (!path.ends_with('/')) path += '/';
  return path.append(name);
}

}  // namespace

TreeWalk::TreeWalk(const std::string& root) {
  struct stat status{};
  if (::stat(root.c_str(), &status) != 0) {
    throw std::system_error(errno, std::generic_category(), "'" + root + "'");
  }
  if (S_ISDIR(status.st_mode)) {
    waiting_.push_back(root);
  } else if (S_ISREG(status.st_mode)) {
    root_is_file_ = true;
    root_file_ = FoundFile{root, static_cast<std::uint64_t>(status.st_size)};
  } else {
    throw std::runtime_error("'" + root + "': neither a directory nor a regular file");
  }
}

std::optional<FoundFile> TreeWalk::next() {
  if (root_file_) return std::exchange(root_file_, std::nullopt);
  while (open_ != nullptr || !waiting_.empty()) {
    if (open_ == nullptr) {
      open_next_directory();
      continue;
    }
    errno = 0;  // readdir has no other way to tell an error from the end
    const dirent* entry = ::readdir(open_.get());
    if (entry == nullptr) {
      if (errno != 0) fail(open_path_, errno);
      open_.reset();
    } else if (auto file = look_at(*entry)) {
      return file;
    }
  }
  return std::nullopt;
}

void TreeWalk::open_next_directory() {
  open_path_ = std::move(waiting_.back());
  waiting_.pop_back();
  // What was a directory a moment ago may be a link now: no following here either.
  const int no_follow = std::exchange(follow_link_, false) ? 0 : O_NOFOLLOW;
  const int fd = ::open(open_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | no_follow);
  if (fd < 0) return fail(open_path_, errno);
  open_.reset(::fdopendir(fd));
  if (open_ == nullptr) {
    fail(open_path_, errno);
    ::close(fd);
  }
}

std::optional<FoundFile> TreeWalk::look_at(const dirent& entry) {
  const std::string_view name = entry.d_name;
  if (name == "." || name == "..") return std::nullopt;
  if (entry.d_type == DT_DIR) {
    waiting_.push_back(join(open_path_, name));
    return std::nullopt;
  }
  // Not every file system tells the type here.
  if (entry.d_type != DT_REG && entry.d_type != DT_UNKNOWN) return std::nullopt;

  std::string path = join(open_path_, name);
  struct stat status{};
  if (::fstatat(::dirfd(open_.get()), entry.d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
    fail(std::move(path), errno);
  } else if (S_ISDIR(status.st_mode)) {
    waiting_.push_back(std::move(path));
  } else if (S_ISREG(status.st_mode)) {
    return FoundFile{std::move(path), static_cast<std::uint64_t>(status.st_size)};
  }
  return std::nullopt;
}

void TreeWalk::fail(std::string path, int error_number) {
  failures_.push_back({std::move(path), std::generic_category().message(error_number)});
}

}  // namespace checksum
