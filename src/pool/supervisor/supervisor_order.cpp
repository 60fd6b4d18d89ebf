// A supervisor that is no copy of the caller: it is born from the warden, and told what to be.
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

#include "brood/codec.hpp"
#include "brood/detail/thunk.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "pool/supervisor/supervisor.hpp"
#include "shm/segment.hpp"
#include "start/birth.hpp"
#include "sys/cgroup.hpp"
#include "sys/fd.hpp"
#include "warden/family.hpp"

namespace brood::pool {

namespace {

struct SupervisorJob {
  static constexpr std::string_view name() { return "a pool's supervisor"; }

  static void run(detail::TaskFrame& frame) {
    // Both live as long as the process.
    static auto* const order = new SupervisorOrder(decode<SupervisorOrder>(frame.arguments()));
    find_inner_threads();
    // Its control group need not be the caller's.
    order->setup.memory_events = sys::cgroup_memory_events();
    const std::vector<int>& passed = start::passed_descriptors();
    const int fd = passed.at(0);
    std::array descriptors = {-1, -1, -1};
    if (order->setup.has_surroundings) {
      std::size_t next = 1;
      descriptors[0] = passed.at(next++);
      if (order->setup.has_output) descriptors[1] = passed.at(next++);
      if (order->setup.has_errors) descriptors[2] = passed.at(next++);
    }
    const PoolGeometry geometry =
        PoolGeometry::make(order->max_tasks, order->workers, order->payload_bytes);
    static const auto* const segment = new shm::Segment(sys::Fd(fd), geometry.end);
    warden::Family& family = *warden::Family::current();
    supervisor_main({PoolView(segment->base(), geometry), fd, order->arena_limit_bytes,
                     order->workers, order->restart_limit, &family.layout(), family.socket(),
                     order->caller_pid, order->grace_ns, order->process_name.c_str(), 0, true,
                     &order->setup, descriptors});
  }
};

}  // namespace

detail::SentCall send_supervisor(const SupervisorOrder& order) {
  return {detail::thunk_of<SupervisorJob>(), nullptr, encode(order), {}};
}

}  // namespace brood::pool
