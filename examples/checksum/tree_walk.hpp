// Finding the files.
#pragma once

#include <dirent.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace checksum {

struct FoundFile {
  std::string path;
  std::uint64_t bytes = 0;
};

// Something that could not be read, and why.
struct Failure {
  std::string path;
  std::string reason;
};

// The regular files under a directory, one after the other, in no particular order and with the
// paths that `find` prints. Symbolic links are not followed, except the root itself (`find -H`).
//
// One directory is open at a time, however deep the tree. The tree may change meanwhile: what can't
// be looked at any more is a failure, never the end of the walk.
class TreeWalk {
 public:
  // Throws std::runtime_error if there is no directory or regular file of that name.
  explicit TreeWalk(const std::string& root);

  // Nothing after the last file.
  std::optional<FoundFile> next();

  // The root is no directory but the only file.
  [[nodiscard]] bool root_is_file() const { return root_is_file_; }
  // Directories and entries that could not be looked at so far.
  [[nodiscard]] const std::vector<Failure>& failures() const { return failures_; }

 private:
  struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };

  void open_next_directory();
  std::optional<FoundFile> look_at(const dirent& entry);
  void fail(std::string path, int error_number);

  bool root_is_file_ = false;
  std::optional<FoundFile> root_file_;
  std::vector<std::string> waiting_;  // directories that were found and not read yet
  std::unique_ptr<DIR, CloseDirectory> open_;
  std::string open_path_;
  bool follow_link_ = true;  // for the next directory: true for the root only
  std::vector<Failure> failures_;
};

}  // namespace checksum
