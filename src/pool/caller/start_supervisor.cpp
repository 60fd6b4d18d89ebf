#include "pool/caller/start_supervisor.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "brood/detail/thunk.hpp"
#include "pool/protocol/call.hpp"
#include "pool/supervisor/supervisor.hpp"
#include "start/birth.hpp"
#include "start/fork.hpp"
#include "start/nursery.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"

namespace brood::pool {

namespace {

StartedSupervisor fork_supervisor(const SupervisorPlan& plan, warden::Family& family,
                                  bool asked_for) {
  const detail::ThunkId thunks = detail::thunk_count();
  WorkersCode code(thunks, sys::executable_memory());
  const WorkerSetup& setup = plan.setup.setup;
  const start::StartDescriptors& descriptors = plan.setup.descriptors;
  const SupervisorStart start{
      plan.memory.view,
      plan.memory.segment.fd(),
      plan.memory.arena_limit_bytes,
      plan.workers,
      plan.restart_limit,
      &family.layout(),
      family.socket(),
      sys::process_id(),
      plan.grace_ns,
      plan.process_name.c_str(),
      0,
      false,
      &setup,
      {descriptors.directory.get(), setup.has_output ? descriptors.output : -1,
       setup.has_errors ? descriptors.errors : -1}};
  start::Forked child = start::fork_now(start::ForkFor::service, asked_for);
  if (child.pid == 0) supervisor_main(start);
  return {std::move(child.pidfd), std::move(code)};
}

StartedSupervisor bear_supervisor(const SupervisorPlan& plan, StartMethod method) {
  const WorkerSetup& setup = plan.setup.setup;
  SupervisorOrder order;
  order.max_tasks = plan.memory.size.tasks;
  order.payload_bytes = plan.memory.size.payload_bytes;
  order.arena_limit_bytes = plan.memory.arena_limit_bytes;
  order.workers = plan.workers;
  order.restart_limit = plan.restart_limit;
  order.grace_ns = plan.grace_ns;
  order.caller_pid = sys::process_id();
  order.process_name = plan.process_name;
  order.setup = setup;
  std::vector<int> descriptors = {plan.memory.segment.fd()};
  if (setup.has_surroundings) {
    descriptors.push_back(plan.setup.descriptors.directory.get());
    if (setup.has_output) descriptors.push_back(plan.setup.descriptors.output);
    if (setup.has_errors) descriptors.push_back(plan.setup.descriptors.errors);
  }
  start::BirthOrder birth;
  birth.method = method;
  birth.name = plan.process_name;
  birth.kind = warden::MemberKind::supervisor;
  birth.descriptors = descriptors;
  birth.preparation = start::prepare({});
  start::Born born;
  try {
    born = start::bear(std::move(birth), send_supervisor(order));
  } catch (...) {
    // It may live, and only its answer not have come.
    raise_order(plan.memory.view, shm::PoolOrder::kill);
    throw;
  }
  const detail::ThunkId thunks = std::min(born.thunks, detail::thunk_count());
  return {std::move(born.pidfd), WorkersCode(thunks, start::code_at_init())};
}

}  // namespace

StartedSupervisor start_supervisor(const SupervisorPlan& plan, warden::Family& family,
                                   const start::Choice& choice) {
  if (choice.method == StartMethod::fork) return fork_supervisor(plan, family, choice.asked_for);
  return bear_supervisor(plan, choice.method);
}

}  // namespace brood::pool
