# brood_own_target(<target>): what all of our own targets have in common.
#
# Nothing in here reaches an installed package. Warnings are shown in our own build only: who takes
# brood in by add_subdirectory did not write this code.
function(brood_own_target target)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_features(${target} PRIVATE cxx_std_20)

  if(PROJECT_IS_TOP_LEVEL)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                             -Wnon-virtual-dtor)
    # Options are written as designated initialisers that leave most fields at their defaults.
    target_compile_options(${target} PRIVATE -Wno-missing-field-initializers)
    # In code that g++ 12 makes of `"text" + string` with -O3 it sees a copy onto itself, of more
    # bytes than there is memory (GCC bugs 105329, 105651; mended in 13).
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU
       AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12
       AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      target_compile_options(${target} PRIVATE -Wno-restrict)
    endif()
  endif()
  if(BROOD_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()

  if(BROOD_SANITIZE)
    list(JOIN BROOD_SANITIZE "," sanitizers)
    target_compile_options(${target} PRIVATE -fsanitize=${sanitizers} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${sanitizers})
  endif()
endfunction()
