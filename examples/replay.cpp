// A pool that keeps what its tasks died of, and this program as the one that runs them again:
//
//     replay DIRECTORY TEXT...      counts the words of each text; one of them is a bug
//     replay --brood-replay FILE    runs the one again that died
#include <brood/brood.hpp>

#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

std::size_t count_words(const std::string& text) {
  std::size_t words = 0;
  bool in_word = false;
  for (const char c : text) {
    if (c == '!') *static_cast<volatile int*>(nullptr) = 1;  // the bug
    if (!in_word && c != ' ') ++words;
    in_word = c != ' ';
  }
  return words;
}

int main(int argc, char** argv) {
  brood::init(argc, argv);  // with --brood-replay it does not return
  if (argc < 2) return 1;
  brood::Pool pool({.keep_failed = argv[1]});
  const std::vector<std::string> texts(argv + 2, argv + argc);
  for (const auto& result : pool.map_results(count_words, texts)) {
    try {
      std::cout << result.value() << '\n';
    } catch (const brood::WorkerDied& e) {
      std::cout << e.what() << '\n';
    }
  }
}
