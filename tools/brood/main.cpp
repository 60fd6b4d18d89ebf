// brood: runs a task again that died (PoolOptions::keep_failed), and tells what is in its file.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <string>
#include <system_error>
#include <vector>

#include "pool/caller/kept_file.hpp"
#include "start/init.hpp"
#include "sys/surroundings.hpp"

namespace {

using brood::pool::KeptFile;

int show(const std::string& file) {
  const std::string text = describe(KeptFile::read(file));
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() ? 0 : 1;
}

// Returns if it can't be started.
int replay(const std::string& file, std::string program, bool in_gdb) {
  const KeptFile kept = KeptFile::read(file);
  // It would do whatever else it does.
  if (!kept.details().has_init) {
    std::fprintf(stderr,
                 "brood: %s does not call brood::init(), and so can't be told to run the task "
                 "again: call brood::init(argc, argv) first in its main(), or "
                 "brood::replay(\"%s\") there\n",
                 kept.details().program.c_str(), file.c_str());
    return 1;
  }
  if (program.empty()) program = kept.details().program;
  std::vector<std::string> command = {program, std::string(brood::start::kReplayArgument), file};
  if (in_gdb) command.insert(command.begin(), {"gdb", "--args"});
  const int error = brood::sys::exec_program(command.front(), command);
  std::fprintf(stderr, "brood: can't start %s: %s\n", command.front().c_str(),
               std::generic_category().message(-error).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Looks at tasks that died, and runs them again. Their files are in the directory that "
      "the program has given as PoolOptions::keep_failed.");
  app.require_subcommand(1);
  std::string file;
  std::string program;
  bool in_gdb = false;
  CLI::App* replay_command =
      app.add_subcommand("replay", "Run one again, alone, in a process of its program");
  replay_command->add_flag("--gdb", in_gdb, "In gdb: say run there");
  replay_command->add_option("--program", program, "Where the program is by now");
  replay_command->add_option("FILE", file, "The file of the task")->required();
  CLI::App* show_command = app.add_subcommand("show", "Tell what is known of one");
  show_command->add_option("FILE", file, "The file of the task")->required();
  CLI11_PARSE(app, argc, argv);
  try {
    return replay_command->parsed() ? replay(file, program, in_gdb) : show(file);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
