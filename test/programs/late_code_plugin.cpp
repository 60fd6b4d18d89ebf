#include "late_code_plugin.hpp"

#include <string>

namespace {

brood::ExitCode function(int n) { return {n + 1}; }
int add_one(int n) { return n + 1; }

std::string outcome_of_lambda(brood::StartMethod method) {
  brood::Process p({.start = method}, [](int n) { return brood::ExitCode{n + 2}; }, 5);
  try {
    p.start();
  } catch (const brood::NotSendable& e) {
    return e.what();
  }
  p.join();
  return std::to_string(p.exit_code().value_or(-1000));
}

constexpr PluginFunctions kFunctions = {function, add_one, outcome_of_lambda};

}  // namespace

extern "C" const PluginFunctions* plugin_functions() { return &kFunctions; }
