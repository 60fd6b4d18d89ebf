#!/bin/bash
# consume.sh static|shared CMAKE GENERATOR COMPILER SOURCE WORK
#
# Builds brood of that kind inside a user's project (add_subdirectory), installs it from there,
# moves the installed tree, and builds and runs a program by the CMake package and by pkg-config.
set -euo pipefail
kind=$1 cmake=$2 generator=$3 compiler=$4 source=$5 work=$6

here=$source/test/consume
mkdir -p "$work"
rm -rf "$work/first_place" "$work/prefix" "$work/package" "$work/program"

flags=(-G "$generator" "-DCMAKE_CXX_COMPILER=$compiler" -DCMAKE_BUILD_TYPE=Debug
  "-DCMAKE_CXX_FLAGS_DEBUG=-O0")
shared=OFF
[[ $kind == shared ]] && shared=ON

step() {
  local name=$1 log=$work/step.log
  shift
  echo "-- $name"
  "$@" >"$log" 2>&1 || {
    cat "$log"
    echo "FAILED: $name"
    exit 1
  }
}

run() {
  local answer
  answer=$(timeout 60 "$@") || {
    echo "FAILED with status $?: $*"
    exit 1
  }
  [[ $answer == 49 ]] || {
    echo "FAILED: 49 expected, not '$answer': $*"
    exit 1
  }
}

# This build directory stays: a second run then compiles only what has changed.
step "configure: add_subdirectory, $kind" \
  "$cmake" -S "$here/subdirectory" -B "$work/subdirectory" "${flags[@]}" \
  "-DBROOD_SOURCE_DIR=$source" "-DBUILD_SHARED_LIBS=$shared" -DBROOD_INSTALL=ON \
  "-DCMAKE_INSTALL_PREFIX=$work/first_place"
step "build: add_subdirectory, $kind" "$cmake" --build "$work/subdirectory" --parallel 2
run "$work/subdirectory/program"

step "install" "$cmake" --install "$work/subdirectory"
mv "$work/first_place" "$work/prefix"
if grep -rIlF -e "$work" -e "$source" "$work/prefix"; then
  echo "FAILED: the installed files above name the place where they were built"
  exit 1
fi

step "configure: find_package, $kind" \
  "$cmake" -S "$here/package" -B "$work/package" "${flags[@]}" "-DCMAKE_PREFIX_PATH=$work/prefix"
step "build: find_package, $kind" "$cmake" --build "$work/package"
run "$work/package/program"

libdir=$(dirname "$(find "$work/prefix" -name 'libbrood.*' | head -n 1)")
export PKG_CONFIG_PATH=$libdir/pkgconfig
also=()
[[ $kind == static ]] && also=(--static)
step "build: pkg-config, $kind" \
  "$here/pkgconfig/build.sh" "$compiler" "$here/main.cpp" "$work/program" "${also[@]}"
run env "LD_LIBRARY_PATH=$libdir" "$work/program"
echo "all three ways give 49"
