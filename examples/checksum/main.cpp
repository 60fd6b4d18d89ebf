// checksum: the SHA-256 of every file of a tree, by a pool of worker processes.
//
// Reading order: hash_files is the task, hash_tree submits it and collects its results; the rest is
// what any such program needs.
//
//   checksum /usr/include > sums && sha256sum --check --quiet sums
//   checksum --chaos /usr/include     # the same result, although workers die all the time
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "hash_tree.hpp"
#include "options.hpp"
#include "output.hpp"
#include "progress.hpp"

namespace {

using namespace checksum;

void say(const std::string& text) { std::fputs(("checksum: " + text + "\n").c_str(), stderr); }

std::string counted(std::size_t count, const std::string& one, const std::string& several) {
  return std::to_string(count) + " " + (count == 1 ? one : several);
}

std::string summary(const Outcome& outcome, const Options& options, double seconds) {
  const auto bytes = static_cast<double>(outcome.bytes);
  char time[32];
  std::snprintf(time, sizeof time, "%.2f s", seconds);
  std::string text = counted(outcome.checksums.size(), "file", "files") + ", " + megabytes(bytes) +
                     " in " + time + ", " + megabytes(bytes / seconds) + "/s";
  if (options.chaos || outcome.deaths > 0) {
    text += ", " + counted(outcome.deaths, "worker", "workers") + " died";
  }
  if (!outcome.failures.empty()) {
    text += ", " + counted(outcome.failures.size(), "error", "errors");
  }
  return text;
}

int run(const Options& options) {
  const Output output(options.output);
  Progress progress;
  const Outcome outcome = hash_tree(options, progress);
  // Not counting the time that whoever reads our output takes.
  const double seconds = progress.seconds();
  progress.erase();

  for (const Failure& failure : outcome.failures) {
    say(printable(failure.path) + ": " + failure.reason);
  }
  output.write(outcome.checksums);
  if (outcome.checksums.empty() && outcome.failures.empty()) {
    say("there are no regular files in '" + printable(options.root) + "'");
  }
  say(summary(outcome, options, seconds));
  return outcome.failures.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  // A reader of our output that went away is an error to report, not a reason to vanish.
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return run(parse_options(argc, argv));
  } catch (const OutputError& error) {
    say(error.what());
    return 1;
  } catch (const std::exception& error) {
    say(error.what());
    return 2;
  }
}
