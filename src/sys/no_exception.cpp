// The type_info of NoException (sys/thrown.hpp), by the name that catch clauses know it by. The
// class itself must be unknown here.
#include <typeinfo>

#if defined(__GLIBCXX__)

namespace brood::sys {

void tell_of_throw() noexcept;

// Not in an unnamed namespace: objects of such a type have no linkage.
class [[gnu::visibility("hidden")]] AskedType final : public std::type_info {
 public:
  explicit AskedType(const char* name) noexcept : std::type_info(name) {}

  // NOLINTNEXTLINE(bugprone-reserved-identifier): the runtime's own
  bool __do_catch(const std::type_info* /*thrown*/, void** /*object*/,
                  unsigned /*outer*/) const override {
    tell_of_throw();
    return false;
  }
};

// Before any other object, whose making may run tasks.
extern AskedType no_exception_type
    [[gnu::visibility("hidden")]] __asm__("_ZTIN5brood3sys11NoExceptionE");
[[gnu::init_priority(101), gnu::used]] AskedType no_exception_type("N5brood3sys11NoExceptionE");

}  // namespace brood::sys

#else  // a runtime that asks in another way: a class like any other, and nobody is told

#include "sys/thrown.hpp"

namespace brood::sys {

NoException::~NoException() = default;

}  // namespace brood::sys

#endif
