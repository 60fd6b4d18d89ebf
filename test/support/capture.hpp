// What a descriptor of this process is sent.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace brood::test {

// Everything that file descriptor `fd` of this process is sent meanwhile.
class Capture {
 public:
  Capture(int fd, std::string path) : fd_(fd), saved_(dup(fd)), path_(std::move(path)) {
    const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    dup2(file, fd_);
    close(file);
  }
  ~Capture() { stop(); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  std::string stop() {
    if (saved_ >= 0) {
      dup2(saved_, fd_);
      close(saved_);
      saved_ = -1;
    }
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }

 private:
  int fd_;
  int saved_;
  std::string path_;
};

}  // namespace brood::test
