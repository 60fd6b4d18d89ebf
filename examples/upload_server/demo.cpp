#include "demo.hpp"

#include <httplib.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "decoder.hpp"

namespace upload_server {
namespace {

enum Kind : std::size_t { good, not_a_picture, crashing, hanging, greedy, in_a_crowd, kinds };

struct Expectation {
  const char* name;
  int status;
  int or_status;
};
constexpr std::array<Expectation, kinds> kExpected = {{
    {"good", 200, 200},
    {"not a picture", 400, 400},
    {"crashing", 422, 422},
    {"hanging", 504, 504},
    {"greedy", 507, 504},  // of memory and time it may run out of either first
    {"hanging, 48 at once", 504, 503},
}};
constexpr std::size_t kClients = 8;
constexpr std::size_t kCrowd = 48;

// ---- what is uploaded

std::string header(std::size_t width, std::size_t height) {
  std::string upload = "TOY1";
  for (const std::size_t size : {width, height}) {
    upload += static_cast<char>(size % 256);
    upload += static_cast<char>(size / 256);
  }
  return upload;
}

std::string upload_of(Kind kind, std::size_t number) {
  using namespace std::string_literals;
  switch (kind) {
    case good: {
      std::string upload = header(100 + number % 400, 100) + "P\4abcd";
      for (std::size_t i = 0; i < 200; ++i) {
        upload += {'R', static_cast<char>(1 + i % 100), static_cast<char>((i + number) % 4)};
      }
      return upload + "F\1";
    }
    case crashing:
      return header(10, 10) + "R\1\0"s;
    case hanging:
    case in_a_crowd:
      return header(10, 10) + "P\1aJ\13"s;
    case greedy:
      return header(65535, 65535) + "P\1aF\0"s;
    default:
      return "GIF89a";
  }
}

// Of ten uploads one is bad, in one way after the other.
Kind kind_of(std::size_t number) {
  constexpr std::array bad = {crashing, hanging, greedy, not_a_picture};
  return number % 10 == 9 ? bad[number / 10 % bad.size()] : good;
}

// ---- what becomes of it

struct Answer {
  Kind kind = good;
  int status = 0;
  bool right = false;
  std::chrono::milliseconds after{};
};

Answer upload(int port, Kind kind, std::size_t number) {
  const std::string body = upload_of(kind, number);
  httplib::Client client("127.0.0.1", port);
  client.set_read_timeout(std::chrono::minutes(1));
  const auto begin = std::chrono::steady_clock::now();
  const auto response = client.Post("/decode", body, "application/octet-stream");
  Answer answer{kind};
  answer.after = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begin);
  if (!response) return answer;
  answer.status = response->status;
  answer.right =
      answer.status == kExpected[kind].status || answer.status == kExpected[kind].or_status;
  if (kind == good && answer.right) {
    const Picture picture = decode(body);
    answer.right = response->body == std::to_string(picture.width) + " " +
                                         std::to_string(picture.height) + " " +
                                         std::to_string(picture.checksum) + "\n";
  }
  return answer;
}

template <class KindOf>
void upload_all(int port, std::size_t clients, std::size_t uploads, KindOf&& kind,
                std::vector<Answer>& answers) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      for (std::size_t number = next++; number < uploads; number = next++) {
        const Answer answer = upload(port, kind(number), number);
        const std::scoped_lock lock(mutex);
        answers.push_back(answer);
      }
    });
  }
}

// True if all of this kind are as they should be.
bool print_kind(Kind kind, std::span<const Answer> answers, std::chrono::milliseconds limit) {
  std::vector<std::chrono::milliseconds> after;
  std::size_t right = 0;
  std::size_t refused = 0;
  for (const Answer& answer : answers) {
    if (answer.kind != kind) continue;
    after.push_back(answer.after);
    right += answer.right && answer.after <= limit ? 1U : 0U;
    refused += answer.status == 503 ? 1U : 0U;
    if (!answer.right) std::printf("%s: status %d\n", kExpected[kind].name, answer.status);
  }
  if (after.empty()) return true;
  std::ranges::sort(after);
  std::printf("%-20s %8zu %8zu %8d %8zu %8lld %8lld\n", kExpected[kind].name, after.size(), right,
              kExpected[kind].status, refused,
              static_cast<long long>(after[after.size() / 2].count()),
              static_cast<long long>(after.back().count()));
  return right == after.size();
}

}  // namespace

bool run_demo(std::size_t uploads, const Limits& limits) {
  UploadServer server(0, limits);
  std::vector<Answer> answers;
  upload_all(server.port(), kClients, uploads, kind_of, answers);
  upload_all(server.port(), kCrowd, kCrowd, [](std::size_t) { return in_a_crowd; }, answers);
  // As if nothing had happened.
  upload_all(server.port(), 1, 10, [](std::size_t) { return good; }, answers);

  std::printf("%-20s %8s %8s %8s %8s %8s %8s\n", "upload", "sent", "right", "status", "or 503",
              "ms", "at most");
  bool fine = true;
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    fine = print_kind(static_cast<Kind>(kind), answers, limits.answer) && fine;
  }
  const brood::PoolStats stats = server.stats();
  std::printf("%llu decoders died, %llu pictures took too long\n",
              static_cast<unsigned long long>(stats.died),
              static_cast<unsigned long long>(stats.timed_out));
  const auto is_refusal = [](const Answer& answer) { return answer.status == 503; };
  return fine && std::ranges::any_of(answers, is_refusal);
}

}  // namespace upload_server
