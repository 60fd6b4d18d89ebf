#!/bin/sh
# build.sh COMPILER SOURCE OUTPUT [FLAG FOR PKG-CONFIG...]: a user without CMake.
set -eu
compiler=$1 source=$2 output=$3
shift 3
# The flags are words to be split.
# shellcheck disable=SC2046
"$compiler" -std=c++20 "$source" -o "$output" $(pkg-config --cflags --libs "$@" brood)
