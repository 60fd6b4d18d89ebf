// Making workers die, to show that it does no harm.
#pragma once

#include <brood/brood.hpp>
#include <cstddef>

namespace checksum {

// Kills about one worker per 200 files, each while it holds a task.
class Chaos {
 public:
  explicit Chaos(const brood::Pool& pool) : pool_(pool) {}

  void files_submitted(std::size_t files) { files_ += files; }
  // A kill is due.
  [[nodiscard]] bool behind() const;
  // Kills as many busy workers as are due and can be found now.
  void strike();

 private:
  [[nodiscard]] bool is_busy(int pid) const;
  bool kill_if_busy(int pid);

  const brood::Pool& pool_;
  std::size_t files_ = 0;
  std::size_t killed_ = 0;
};

}  // namespace checksum
