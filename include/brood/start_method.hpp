// How a process comes into being.
#pragma once

namespace brood {

// fork: the child is a copy of the calling process as it is now.
//
// A process with several threads must be asked for it explicitly (`.start = StartMethod::fork`):
// whatever its other threads were doing stands still for ever in the copy. Otherwise starting
// throws StartError.
enum class StartMethod { fork };

}  // namespace brood
