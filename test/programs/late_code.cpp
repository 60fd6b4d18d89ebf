// Code that is loaded after init() is refused by name where the child does not have it, and taken
// where it does. The argument is the path of the library.
#include <brood/brood.hpp>

#include <cstdio>
#include <string>

#include <dlfcn.h>

#include "late_code_plugin.hpp"

namespace {

int failures = 0;

void expect(bool right, const char* what) {
  if (right) return;
  std::printf("wrong: %s\n", what);
  ++failures;
}

template <class F, class... Args>
std::string outcome(brood::StartMethod method, F f, Args... args) {
  brood::Process p({.start = method}, f, args...);
  try {
    p.start();
  } catch (const brood::NotSendable& e) {
    return e.what();
  }
  p.join();
  return std::to_string(p.exit_code().value_or(-1000));
}

}  // namespace

int main(int argc, char** argv) {
  brood::init(argc, argv);
  void* library = ::dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) return 2;
  const auto plugin =
      reinterpret_cast<const PluginFunctions* (*)()>(::dlsym(library, "plugin_functions"))();
  using brood::StartMethod;
  expect(outcome(StartMethod::fork, plugin->function, 5) == "6", "fork, a function");
  expect(plugin->outcome_of_lambda(StartMethod::fork) == "7", "fork, a lambda");
  for (const StartMethod method : {StartMethod::forkserver, StartMethod::spawn}) {
    expect(outcome(method, plugin->function, 5).find("loaded after brood::init()") !=
               std::string::npos,
           "a function");
    expect(
        plugin->outcome_of_lambda(method).find("loaded after brood::init()") != std::string::npos,
        "a lambda");
    expect(outcome(method, [](int n) { return brood::ExitCode{n}; }, 4) == "4", "our own code");
    brood::PoolOptions options;
    options.workers = 1;
    options.start = method;
    brood::Pool pool(options);
    bool refused = false;
    try {
      pool.apply(plugin->add_one, 1);
    } catch (const brood::NotSendable&) {
      refused = true;
    }
    expect(refused, "a pool's task");
    expect(pool.apply([](int n) { return 2 * n; }, 4) == 8, "a pool's task of our own");
  }
  return failures == 0 ? 0 : 1;
}
