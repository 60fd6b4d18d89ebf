// upload_server: decodes what strangers upload, by a decoder that crashes, hangs and eats memory,
// and answers each request in time all the same.
//
// Reading order: decoder is what can't be trusted; server.cpp (answer) is how to live with it; demo
// is many clients.
//
//   upload_server --demo          # one upload in ten is bad; prints what became of them
//   upload_server --port 8080     # until SIGINT or SIGTERM
#include <brood/brood.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "demo.hpp"
#include "server.hpp"

namespace {

using namespace upload_server;

int serve(int port) {
  // Before there are threads: none of them is to have these signals.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  const UploadServer server(port, Limits{});
  std::printf("http://127.0.0.1:%d/decode\n", server.port());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ends, &signal);
  return EXIT_SUCCESS;
}

int usage() {
  std::fputs("usage: upload_server --demo [UPLOADS] | --port PORT\n", stderr);
  return 2;
}

int run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const int number = argc > 2 ? std::atoi(argv[2]) : 0;
  if (argc > 3 || (argc > 2 && number <= 0)) return usage();
  if (mode == "--port" && argc == 3) return serve(number);
  if (mode != "--demo") return usage();
  const std::size_t uploads = argc == 3 ? static_cast<std::size_t>(number) : 1000;
  return run_demo(uploads, Limits{}) ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    // First: workers are then made by a quiet process, whatever threads there are in this one.
    brood::init(argc, argv);
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "upload_server: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
