// What people call a function.
#include "pool/caller/task_name.hpp"

#include <gtest/gtest.h>

namespace brood::pool {
namespace {

TEST(TaskNameTest, AFunctionIsCalledByItsNameWithoutParametersAndResult) {
  EXPECT_EQ(plain_function_name("decode(int, std::vector<int> const&)"), "decode");
  EXPECT_EQ(plain_function_name("decode"), "decode");
  EXPECT_EQ(plain_function_name("ns::decode(void (*)(int))"), "ns::decode");
  EXPECT_EQ(plain_function_name("int ns::decode<int>(int)"), "ns::decode<int>");
  EXPECT_EQ(plain_function_name("std::vector<int, std::allocator<int> > f<(E)1>(int)"), "f<(E)1>");
  EXPECT_EQ(plain_function_name("ns::(anonymous namespace)::decode(int)"), "ns::decode");
  EXPECT_EQ(plain_function_name("decode(int) [clone .isra.0]"), "decode");
  EXPECT_EQ(plain_function_name("decode[abi:cxx11](int)"), "decode[abi:cxx11]");
  EXPECT_EQ(plain_function_name("f(int)::{lambda(int)#1}::_FUN(int)"),
            "f(int)::{lambda(int)#1}::_FUN");
  EXPECT_EQ(plain_function_name("C::f(int) const::{lambda(int)#1}::_FUN(int)"),
            "C::f(int) const::{lambda(int)#1}::_FUN");
}

TEST(TaskNameTest, WhatCantBeTakenApartStaysWhole) {
  EXPECT_EQ(plain_function_name(""), "");
  EXPECT_EQ(plain_function_name("operator<<(int, A)"), "operator<<(int, A)");
  EXPECT_EQ(plain_function_name("_ZN3abc"), "_ZN3abc");
}

}  // namespace
}  // namespace brood::pool
