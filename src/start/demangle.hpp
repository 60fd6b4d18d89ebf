// Names of types as people write them.
#pragma once

#include <string>

namespace brood {

std::string demangle(const char* name);

// Of the exception being handled; "unknown type" for one that is not C++'s.
std::string current_exception_type();

}  // namespace brood
