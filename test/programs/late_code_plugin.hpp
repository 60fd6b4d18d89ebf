// What the library tells of itself.
#pragma once

#include <brood/brood.hpp>

#include <string>

struct PluginFunctions {
  brood::ExitCode (*function)(int);
  int (*add_one)(int);
  std::string (*outcome_of_lambda)(brood::StartMethod method);
};
