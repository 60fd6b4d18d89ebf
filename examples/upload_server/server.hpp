// The service: POST /decode answers with what the picture in the body is.
//
//   200 width, height, checksum     400 not a picture
//   422 the decoder crashed         504 the decoder took too long
//   507 it took too much memory     503 too much to do: try again later
#pragma once

#include <brood/brood.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

namespace httplib {
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace upload_server {

struct Limits {
  std::size_t decoders = 4;                              // worker processes
  std::size_t waiting = 16;                              // uploads that wait for one
  std::chrono::milliseconds decoding{500};               // for each picture
  std::chrono::milliseconds answer{5000};                // for each request, waiting included
  std::uint64_t memory_bytes = std::uint64_t{16} << 20;  // for each decoder
  std::size_t upload_bytes = std::size_t{16} << 20;
};

// Serves from its construction to its destruction. Throws std::runtime_error if it can't.
class UploadServer {
 public:
  // Port 0: any that is free.
  UploadServer(int port, const Limits& limits);
  ~UploadServer();
  UploadServer(const UploadServer&) = delete;
  UploadServer& operator=(const UploadServer&) = delete;

  [[nodiscard]] int port() const { return port_; }
  [[nodiscard]] brood::PoolStats stats() const { return pool_.stats(); }

 private:
  void answer(const httplib::Request& request, httplib::Response& response);

  Limits limits_;
  brood::Pool pool_;
  std::unique_ptr<httplib::Server> http_;
  int port_ = 0;
  std::thread listener_;
};

}  // namespace upload_server
