// The parts on the path of a task, one by one: allocating shared memory, encoding, checking a
// closure. By Google Benchmark: its options apply (--benchmark_filter=...).
#include <benchmark/benchmark.h>
#include <brood/brood.hpp>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "shm/arena.hpp"
#include "shm/segment.hpp"

namespace {

constexpr std::size_t kPayloadBytes = std::size_t{1} << 30;

struct OneArena {
  OneArena()
      : metadata_bytes(brood::shm::Arena::metadata_bytes(kPayloadBytes)),
        segment("bench", metadata_bytes + kPayloadBytes) {
    arena.attach({segment.base(), segment.fd(), 0, metadata_bytes, kPayloadBytes, kPayloadBytes},
                 {1, 1});
    if (arena.format() < 0) std::abort();
  }
  std::size_t metadata_bytes;
  brood::shm::Segment segment;
  brood::shm::Arena arena;
};

void arena_allocate_and_free(benchmark::State& state) {
  OneArena shared;
  const auto bytes = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    const auto block = shared.arena.allocate(bytes);
    benchmark::DoNotOptimize(block.bytes.data());
    shared.arena.free(block.ref);
  }
}
BENCHMARK(arena_allocate_and_free)->Arg(64)->Arg(4096)->Arg(1 << 20)->Arg(64 << 20);

void malloc_and_free(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    void* block = std::malloc(bytes);
    benchmark::DoNotOptimize(block);
    std::free(block);
  }
}
BENCHMARK(malloc_and_free)->Arg(64)->Arg(4096)->Arg(1 << 20);

void codec_int_and_double(benchmark::State& state) {
  std::array<std::byte, 16> bytes;
  const std::tuple<int, double> value{7, 0.5};
  for (auto _ : state) {
    brood::detail::Writer writer(bytes);
    brood::detail::encode_part(value, writer);
    benchmark::DoNotOptimize(bytes);
    brood::detail::Reader reader(bytes);
    benchmark::DoNotOptimize(brood::detail::decode_part<std::tuple<int, double>>(reader));
  }
}
BENCHMARK(codec_int_and_double);

void codec_vector_of_strings(benchmark::State& state) {
  const std::vector<std::string> value(100, std::string(40, 'x'));
  for (auto _ : state) {
    const std::vector<std::byte> bytes = brood::encode(value);
    benchmark::DoNotOptimize(brood::decode<std::vector<std::string>>(bytes));
  }
}
BENCHMARK(codec_vector_of_strings);

// A word that looks like an address costs a system call; others cost nothing.
void closure_check(benchmark::State& state) {
  const long number = state.range(0);
  const auto closure = [number] { return number; };
  using Codec = brood::detail::CallableCodec<std::remove_const_t<decltype(closure)>>;
  for (auto _ : state) Codec::check(closure, brood::detail::Addresses::of_a_copy);
}
BENCHMARK(closure_check)->Arg(7)->Arg(123'456'789'012);

}  // namespace

BENCHMARK_MAIN();
