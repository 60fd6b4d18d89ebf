// Objects in memory that processes share: Value, RawValue; Array, RawArray, Slice.
#pragma once

#include "brood/detail/cpp20.hpp"

#include "brood/array.hpp"
#include "brood/value.hpp"
