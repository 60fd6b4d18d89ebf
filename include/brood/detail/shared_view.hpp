// Views as parameters of tasks, of what lies in shared memory anyway.
#pragma once

namespace brood::detail {

// What an argument of type A holds in shared memory: the elements of Array, RawArray and Slice;
// void for all others. Specialised in array.hpp.
template <class A>
struct SharedElement {
  using type = void;
};

// The wire (arguments.hpp) of a span or string_view parameter that is given such an argument: the
// handle travels, the worker's view is of the same memory. Defined in array.hpp.
template <class View>
struct SharedViewWire;

template <class Wire>
inline constexpr bool is_shared_view_wire = false;
template <class View>
inline constexpr bool is_shared_view_wire<SharedViewWire<View>> = true;

}  // namespace brood::detail
