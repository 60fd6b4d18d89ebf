// A program whose spawned children do not come to init(): they must start nothing, or each child
// would start another. Says what it is told, and ends with status 3.
#include <brood/brood.hpp>

#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
  const bool is_child = argc > 1 && std::string_view(argv[1]).starts_with("--brood-spawned");
  if (!is_child) brood::init(argc, argv);
  for (const brood::StartMethod method : {brood::StartMethod::spawn, brood::StartMethod::fork}) {
    brood::Process p({.start = method}, [] {});
    try {
      p.start();
      std::printf("%s: started by %s\n", is_child ? "child" : "host", name_of(method).data());
      return 1;
    } catch (const brood::StartError& e) {
      std::printf("%s: %s\n", is_child ? "child" : "host", e.what());
    }
    if (!is_child) return 3;
  }
  return 3;
}
