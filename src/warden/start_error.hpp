// Why a process could not be started.
#pragma once

namespace brood::warden {

// Throws StartError for the errno value `error`, with what would help.
[[noreturn]] void throw_start_error(int error);

}  // namespace brood::warden
