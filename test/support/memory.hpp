// The shared memory of this process.
#pragma once

namespace brood::test {

// Bytes that all pools' segments of this process occupy now.
long pool_memory_bytes();

}  // namespace brood::test
