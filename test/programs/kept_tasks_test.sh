#!/bin/bash
# A kept task, run again by its program and by the tool.
#
#   kept_tasks_test.sh PROGRAM OTHER_PROGRAM [TOOL]
set -u
program=$1 other=$2 tool=${3:-}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
ulimit -c 0
failures=0

fail() {
  echo "wrong: $*"
  failures=$((failures + 1))
}

# expect STATUS COMMAND...: with its output in $out.
expect() {
  local wanted=$1 status=0
  shift
  rm -f "$directory/trace"
  out=$("$@" 2>&1) || status=$?
  ((status == wanted)) || fail "$*: status $status, not $wanted: $out"
}

mapfile -t files < <("$program" "$directory")
((${#files[@]} == 3)) || fail "three tasks died, and these were kept: ${files[*]}"
seed=

for file in "${files[@]}"; do
  [[ -f $file ]] || fail "not kept: $file"
  expect $((128 + 11)) "$program" --brood-replay "$file"
  [[ $out != *"main() was entered"* ]] || fail "main() was entered"
  [[ $(cat "$directory/trace") == "3 42 "* ]] || fail "its arguments: $(cat "$directory/trace")"
  BROOD_TEST_TASK=return expect 0 "$program" --brood-replay "$file"
  BROOD_TEST_TASK=throw expect 1 "$program" --brood-replay "$file"
  [[ $out == *"out_of_range"*"as it is told"* ]] || fail "the message: $out"
  BROOD_TEST_TASK=return expect 0 "$program" "--brood-replay=$file"
  # With anything beside it the program does not do whatever else it does.
  for arguments in "--brood-replay $file more" "more --brood-replay $file" "--brood-replay" \
    "--brood-replay=$file more" "by-itself --brood-replay=$file"; do
    # shellcheck disable=SC2086
    expect 1 "$program" $arguments
    [[ $out == *"--brood-replay FILE"*"nothing beside it"* ]] || fail "beside it: $out"
    [[ ! -e $directory/trace ]] || fail "it ran with $arguments"
  done
  expect 9 "$program" other "$file"
  expect 9 "$program" -- --brood-replay "$file"

  [[ -n $tool ]] || continue
  expect $((128 + 11)) "$tool" replay "$file"
  [[ $(cat "$directory/trace") == "3 42 "* ]] || fail "by the tool"
  BROOD_TEST_TASK=return expect 0 "$tool" replay "$file"
  expect 0 "$tool" show "$file"
  [[ $out == *"work(std::"*"signal 11"* || $out == *"signal 11"*"work(std::"* ]] || fail "show: $out"
done

# Files that are none, or of another program.
expect 1 "$program" --brood-replay "$directory/none"
expect 1 "$program" --brood-replay "$program"
[[ $out == *"no file of a task"* ]] || fail "another file: $out"
head -c 100 "${files[0]}" >"$directory/short"
expect 1 "$program" --brood-replay "$directory/short"
[[ $out == *"is cut off"* ]] || fail "a short file: $out"
expect 1 "$other" --brood-replay "${files[0]}"
[[ $out == *"another program, or another build"* ]] || fail "another program: $out"

if [[ -n $tool ]]; then
  expect 1 "$tool" show "$directory/short"
  # A gdb that tells what it was called with.
  mkdir "$directory/bin"
  printf '#!/bin/bash\nprintf "%%s\\n" "$@"\n' >"$directory/bin/gdb"
  chmod +x "$directory/bin/gdb"
  PATH=$directory/bin:$PATH expect 0 "$tool" replay --gdb "${files[0]}"
  [[ $out == $'--args\n'"$(readlink -f "$program")"$'\n--brood-replay\n'"${files[0]}" ]] ||
    fail "gdb: $out"

  # A program that would run as ever, if it was called.
  file=$("$program" "$directory" without-init)
  [[ -f $file ]] || fail "not kept without init(): $file"
  for gdb in "" --gdb; do
    # shellcheck disable=SC2086
    PATH=$directory/bin:$PATH expect 1 "$tool" replay $gdb "$file"
    [[ $out == *"does not call brood::init()"*"brood::replay(\"$file\")"* ]] || fail "init: $out"
    [[ $out != *"main() was entered"* && ! -e $directory/trace ]] || fail "it ran: $out"
  done
fi

echo "$failures failures"
((failures == 0))
