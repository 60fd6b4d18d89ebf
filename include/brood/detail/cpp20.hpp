// Included before anything else by every public header.
#pragma once

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "brood needs C++20: compile with -std=c++20 or later"
// No compiler goes on from here, with pages that say less.
#include "brood/needs-C++20"
#endif
