// All of brood, in the order in which to read it.
#pragma once

// clang-format off
#include "brood/pool.hpp"
#include "brood/future.hpp"
#include "brood/completion.hpp"
#include "brood/map_future.hpp"
#include "brood/continuation.hpp"
#include "brood/executor.hpp"
#include "brood/thread_pool.hpp"
#include "brood/process.hpp"
#include "brood/locks.hpp"
#include "brood/queue.hpp"
#include "brood/pipe.hpp"
#include "brood/fd.hpp"
#include "brood/wait.hpp"
#include "brood/signals.hpp"
#include "brood/shared.hpp"
#include "brood/shared_memory.hpp"
#include "brood/shareable_list.hpp"
#include "brood/hooks.hpp"
#include "brood/log.hpp"
#include "brood/error.hpp"
#include "brood/codec.hpp"
#include "brood/start_method.hpp"
#include "brood/cpu_count.hpp"
// clang-format on
