// Where the checksums go.
#pragma once

#include <sys/types.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "hash_tree.hpp"

namespace checksum {

class OutputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Standard output, or a file that is there completely or not at all.
class Output {
 public:
  // `file` empty: standard output. Throws OutputError for what would fail in the end anyway, so
  // that nobody waits for a result that has no place to go. Opens nothing yet: the file may lie in
  // the very tree that is going to be read.
  explicit Output(const std::string& file);

  // Throws OutputError if anything could not be written; a file of that name is then as it was.
  void write(const std::vector<Checksum>& checksums) const;

 private:
  void replace_file(const std::vector<Checksum>& checksums) const;

  std::string file_;
  bool replace_ = false;  // a regular file, or none yet
  mode_t mode_ = 0;       // of the file that replaces it
};

// As GNU sha256sum prints it: a line begins with a backslash if its name had to be escaped.
std::string checksum_line(const Checksum& checksum);

// A path as it can be shown on a terminal: nothing in it acts on the screen.
std::string printable(std::string_view path);

}  // namespace checksum
