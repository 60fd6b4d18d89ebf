// A program whose tasks die by what they are called with, for kept_tasks_test.sh: prints the file
// of each. It never falls into this main() when it is called to run one of them again.
#include <brood/brood.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Leaves a trace: it has run, with these arguments. Dies, throws or returns as its environment
// says.
void work(const std::string& trace, const std::vector<int>& numbers) {
  std::ofstream(trace) << numbers.size() << ' ' << numbers.back() << ' ' << brood::task_seed();
  const char* how = std::getenv("BROOD_TEST_TASK");
  if (how == nullptr) raise(SIGSEGV);
  if (std::string(how) == "throw") throw std::out_of_range("as it is told");
}

std::string death_of(brood::StartMethod method, const char* directory) {
  brood::PoolOptions options;
  options.workers = 1;
  options.start = method;
  options.keep_failed = directory;
  brood::Pool pool(options);
  try {
    pool.apply(work, std::string(directory) + "/trace", std::vector<int>{1, 2, 42});
  } catch (const brood::WorkerDied& e) {
    return e.kept;
  }
  return "nothing died";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[2]) == "without-init") {
    std::puts(death_of(brood::StartMethod::fork, argv[1]).c_str());
    return 0;
  }
  if (argc > 1 && std::string(argv[1]) == "by-itself") {
    brood::init();
  } else {
    brood::init(argc, argv);
  }
  if (argc != 2) {
    std::puts("main() was entered");
    return 9;
  }
  using brood::StartMethod;
  for (const StartMethod method :
       {StartMethod::fork, StartMethod::forkserver, StartMethod::spawn}) {
    std::puts(death_of(method, argv[1]).c_str());
  }
  return 0;
}
