#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <brood/brood.hpp>
#include <cstdlib>

namespace checksum {
namespace {

constexpr std::size_t kMostJobs = 480;  // what a brood::Pool takes

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  options.jobs = std::min(brood::cpu_count(), kMostJobs);

  CLI::App app(
      "Prints the SHA-256 of every regular file under DIR, sorted by path, as sha256sum does.\n"
      "Symbolic links are not followed, except DIR itself.");
  app.name("checksum");
  app.add_option("DIR", options.root, "Directory, or a single file")->capture_default_str();
  app.add_option("-j,--jobs", options.jobs, "Worker processes (default: one per processor)")
      ->check(CLI::Range(std::size_t{1}, kMostJobs));
  app.add_option("-o,--output", options.output, "Write to FILE, all or nothing")->type_name("FILE");
  app.add_flag("--chaos", options.chaos,
               "Kill a busy worker about every 200 files; the result is the same");
  app.footer(
      "Exit status: 0 if all is well, 1 if files could not be read or the output not be written,\n"
      "2 if there was nothing to begin with: bad options, no such DIR, no workers.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& end) {
    const bool asked_for_help = app.exit(end) == 0;
    std::exit(asked_for_help ? 0 : 2);
  }
  return options;
}

}  // namespace checksum
