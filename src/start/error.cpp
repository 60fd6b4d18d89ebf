#include "brood/error.hpp"

#include "start/init.hpp"

namespace brood {

std::string WorkerDied::describe(const Death& death) {
  std::string text = death.task.empty() ? "brood: process " : "brood: worker ";
  text += std::to_string(death.pid);
  if (death.hung) {
    text += " gave no sign of life and was killed";
  } else if (death.signal != 0) {
    text += " was killed by signal " + std::to_string(death.signal);
  } else {
    text += " exited with status " + std::to_string(death.exit_code);
  }
  if (death.out_of_memory) text += " for want of memory";
  if (!death.task.empty()) text += " while it ran " + death.task;
  if (death.attempts > 1) text += " (attempt " + std::to_string(death.attempts) + ")";
  if (!death.kept.empty()) text += "\nto run it again: " + start::replay_command(death.kept);
  return text;
}

}  // namespace brood
