#include "server.hpp"

#include <httplib.h>
#include <sys/socket.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "decoder.hpp"

namespace upload_server {
namespace {

constexpr int kOk = 200;
constexpr int kBadRequest = 400;
constexpr int kUnprocessable = 422;
constexpr int kUnavailable = 503;
constexpr int kTooSlow = 504;
constexpr int kNoMemory = 507;
// More requests at once than uploads may wait: so that somebody is there to say 503.
constexpr std::size_t kHttpThreads = 64;

brood::PoolOptions pool_options(const Limits& limits) {
  brood::PoolOptions options;
  options.workers = limits.decoders;
  options.memory_limit_bytes = limits.memory_bytes;
  options.max_pending = limits.waiting;
  // A decoder that hangs does not hear that it is to stop.
  options.grace = std::chrono::milliseconds(0);
  options.name = "decode";
  return options;
}

void reply(httplib::Response& response, int status, const std::string& text) {
  response.status = status;
  response.set_content(text + "\n", "text/plain");
}

// Returns the port.
int bind(httplib::Server& http, int port) {
  int socket = -1;
  http.set_socket_options([&](int made) {
    const int on = 1;
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    socket = made;
  });
  if (port == 0)
    port = http.bind_to_any_port("127.0.0.1");
  else if (!http.bind_to_port("127.0.0.1", port))
    port = -1;
  // Once more: httplib lets five clients wait to be accepted, and the system turns others away.
  if (port <= 0 || listen(socket, SOMAXCONN) != 0) throw std::runtime_error("can't listen there");
  return port;
}

std::string text_of(const Picture& picture) {
  return std::to_string(picture.width) + " " + std::to_string(picture.height) + " " +
         std::to_string(picture.checksum);
}

}  // namespace

UploadServer::UploadServer(int port, const Limits& limits)
    : limits_(limits), pool_(pool_options(limits)), http_(std::make_unique<httplib::Server>()) {
  http_->new_task_queue = [] { return new httplib::ThreadPool(kHttpThreads); };
  http_->set_payload_max_length(limits.upload_bytes);
  http_->Post("/decode",
              [this](const auto& request, auto& response) { answer(request, response); });
  port_ = bind(*http_, port);
  listener_ = std::thread([this] { http_->listen_after_bind(); });
  while (!http_->is_running()) std::this_thread::yield();
}

// Requests first: whoever waits for a decoder gets his answer.
UploadServer::~UploadServer() {
  http_->stop();
  listener_.join();
}

// Called by many threads at once. Whatever the decoder does, it does it in another process.
void UploadServer::answer(const httplib::Request& request, httplib::Response& response) {
  brood::TaskOptions options;
  options.timeout = limits_.decoding;
  options.deadline = std::chrono::steady_clock::now() + limits_.answer;
  options.name = "decode for " + request.remote_addr;
  auto picture = pool_.try_submit(options, decode, std::string_view(request.body));
  if (!picture) return reply(response, kUnavailable, "too much to do: try again later");
  try {
    // It needs no time limit: the task ends by its deadline, in one way or another.
    reply(response, kOk, text_of(picture->get()));
  } catch (const brood::TaskTimeout&) {
    reply(response, kTooSlow, "decoding took too long");
  } catch (const brood::WorkerDied& death) {
    std::fprintf(stderr, "%s\n", death.what());
    if (death.out_of_memory) return reply(response, kNoMemory, "decoding took too much memory");
    reply(response, kUnprocessable, "the decoder can't stand this picture");
  } catch (const std::invalid_argument& error) {
    // What decode() has thrown.
    reply(response, kBadRequest, error.what());
  }
}

}  // namespace upload_server
