#!/usr/bin/env bash
# Checks the example `checksum` against find and sha256sum, on trees that were made to be nasty.
#
#   checksum_test.sh PROGRAM
#
# Needs nothing but what every Debian has; says which part it had to leave out.
set -u

program=$(realpath -- "$1")
directory=$(mktemp -d)
trap 'chmod -R u+rwx "$directory"; rm -rf -- "$directory"' EXIT
chmod 755 "$directory"
cd "$directory" || exit 99
export LC_ALL=C

failures=0
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  failures=$((failures + 1))
}
skip() { printf 'left out: %s\n' "$*" >&2; }

# expect_status STATUS ARGUMENT...: runs the program; its output is in the files out and err.
expect_status() {
  local expected=$1 actual
  shift
  timeout 60 "$program" "$@" >"$directory/out" 2>"$directory/err"
  actual=$?
  [[ $actual -eq $expected ]] || fail "checksum $*: status $actual instead of $expected"
}
expect_in() {  # FILE TEXT
  grep -qF -- "$2" "$directory/$1" || fail "no '$2' in $1: $(head -c 300 "$directory/$1")"
}
expect_empty() {  # FILE
  [[ ! -s $directory/$1 ]] || fail "$1 is not empty: $(head -c 300 "$directory/$1")"
}
# What the program should print for these arguments of find.
reference() { find -H "$@" -type f -print0 | sort -z | xargs -0 --no-run-if-empty sha256sum --; }
# expect_reference [OPTION...] -- ROOT
expect_reference() {
  local root=${!#}
  expect_status 0 "$@"
  reference "$root" >"$directory/reference"
  cmp -s out reference || fail "checksum $*: $(diff reference out | head -4)"
  [[ ! -s out ]] || sha256sum --check --quiet out || fail "sha256sum --check refuses checksum $*"
}

nasty_names() {
  mkdir -p nasty/'a directory' nasty/$'new\nline' nasty/'back\slash' nasty/.hidden nasty/none/at/all
  local name
  # shellcheck disable=SC1003,SC2016  # exactly these
  for name in plain ' leading' 'trailing ' '*star' '\' '\\' '\n' $'\n' $'\n\n' $'\r' $'a\rb' \
    $'end\r' $'\t' $'\e[31m' "quo'te" 'dou"ble' '$(id)' '-' '--help' '#' $'\xff\xfe' $'\x01' 'a:b' \
    'SHA256 (x) = y' "$(printf 'n%.0s' {1..255})"; do
    printf '%s' "$name" >nasty/"$name"
    printf '%s again' "$name" >nasty/'a directory'/"$name"
    printf '%s once more' "$name" >nasty/$'new\nline'/"$name"
    printf '%s the last time' "$name" >nasty/'back\slash'/"$name"
  done
  # The order is by bytes of the whole path: "a", "a-b", "a/c", "a0".
  mkdir nasty/a && touch nasty/a/c nasty/a-b nasty/a0 nasty/.hidden/empty
  # What is no regular file is not looked at.
  mkfifo nasty/fifo
  ln -s plain nasty/link
  ln -s "$directory/nasty" nasty/loop
  ln -s . nasty/a/self
  ln -s nowhere nasty/dangling
  ln nasty/plain nasty/hardlink
}

test_nasty_names() {
  nasty_names
  expect_reference nasty
  expect_reference nasty/
  expect_reference nasty//
  expect_reference ./nasty
  expect_reference -- nasty/../nasty
  expect_reference "$directory/nasty"
  expect_reference -j 1 nasty
  expect_reference -j7 nasty
  (cd nasty/'a directory' && timeout 60 "$program" . 2>/dev/null | sha256sum --check --quiet) ||
    fail "checksum ."
  [[ $(wc -l <err) -eq 1 ]] || fail "not one line on stderr: $(cat err)"
}

test_links_as_root() {
  ln -s nasty to-directory
  ln -s nasty/plain to-file
  expect_reference to-directory
  expect_reference to-directory/
  expect_reference to-file
}

test_single_file() {
  expect_reference nasty/plain
  expect_reference nasty/$'\n'
  expect_status 2 nasty/plain/
  expect_status 2 nasty/fifo
  expect_in err 'neither a directory nor a regular file'
}

test_nothing_to_do() {
  mkdir empty
  expect_status 0 empty
  expect_empty out
  expect_in err 'no regular files'
  expect_status 2 missing
  expect_empty out
  expect_in err "'missing': No such file or directory"
  expect_status 2 ''
  expect_status 2 to-nowhere/
}

test_options() {
  local arguments
  for arguments in '-j' '-j 0' '-j -1' '-j 481' '-j x' '--nonsense' '-o' 'nasty nasty'; do
    # shellcheck disable=SC2086  # several words
    expect_status 2 $arguments
    expect_empty out
  done
  expect_status 0 --help
  expect_in out '--chaos'
}

test_output_file() {
  expect_status 0 -o sums nasty
  expect_empty out
  reference nasty | cmp -s - sums || fail '-o wrote something else'
  [[ $(stat -c %a sums) = "$(printf %o $((0666 & ~$(umask))))" ]] || fail "mode $(stat -c %a sums)"
  # An existing file is replaced with its mode kept, a link to it stays a link.
  printf 'old' >real && chmod 640 real && ln -s real through
  expect_status 0 -o through nasty
  [[ -L through && $(stat -c %a real) = 640 ]] || fail '-o through a link'
  cmp -s sums real || fail '-o through a link wrote something else'
  # Devices are written to, never replaced.
  expect_status 0 -o /dev/null nasty
  [[ -c /dev/null ]] || fail 'no /dev/null any more'
  expect_status 1 -o /dev/full nasty
  expect_in err '/dev/full: No space left on device'
  expect_status 1 -o missing/sums nasty
  expect_in err 'missing/sums: No such file or directory'
  expect_status 1 -o empty nasty
  expect_in err 'Is a directory'
  # A file that could not be written whole is as it was, and no temporary file remains.
  # Here the disk is full when the workers are at it, by a limit to the size of files.
  mkdir limited slow && printf 'old' >limited/sums
  for i in {1..100}; do printf '%s' "$i" >slow/"$i"; done
  truncate -s 1G slow/huge
  (trap '' XFSZ && exec "$program" -j1 -o limited/sums slow 2>err) &
  local pid=$! status
  sleep 0.2
  prlimit --pid "$pid" --fsize=1024
  wait "$pid"
  status=$?
  rm slow/huge
  [[ $status -eq 1 ]] || fail "status $status of -o FILE that is too large"
  expect_in err 'limited/sums: File too large'
  [[ $(ls -A limited) = sums && $(<limited/sums) = old ]] || fail "limited: $(ls -lA limited)"
}

test_broken_stdout() {
  timeout 60 "$program" nasty >/dev/full 2>err
  [[ $? -eq 1 ]] || fail 'status with a full standard output'
  expect_in err 'standard output: No space left on device'
  timeout 60 "$program" nasty >&- 2>err
  [[ $? -eq 1 ]] || fail 'status with a closed standard output'
  expect_in err 'standard output: Bad file descriptor'
  { sleep 0.2; timeout 60 "$program" nasty 2>err; echo $? >status; } | true
  [[ $(<status) -eq 1 ]] || fail "status $(<status) with a reader that went away"
  expect_in err 'standard output: Broken pipe'
  timeout 60 "$program" -o sums2 nasty <&- >&- 2>&- || fail 'all descriptors closed'
  cmp -s sums sums2 || fail 'all descriptors closed: another output'
}

test_unreadable() {
  mkdir bad bad/locked bad/fine
  printf 'secret' >bad/secret
  printf 'fine' >bad/fine/file
  printf 'inside' >bad/locked/file
  chmod 000 bad/secret bad/locked
  chmod 755 bad
  local command=("$program")
  if [[ $(id -u) -eq 0 ]]; then
    cp -- "$program" program-for-nobody && chmod 755 program-for-nobody
    command=(setpriv --reuid=65534 --regid=65534 --clear-groups ./program-for-nobody)
    if ! "${command[@]}" --help >/dev/null 2>&1; then
      skip 'unreadable files: this is root, and setpriv does not work'
      return
    fi
  fi
  timeout 60 "${command[@]}" bad >out 2>err
  [[ $? -eq 1 ]] || fail 'status with unreadable files'
  expect_in err 'bad/secret: Permission denied'
  expect_in err 'bad/locked: Permission denied'
  expect_in err '2 errors'
  reference bad/fine | cmp -s - out || fail 'the readable file of an unreadable tree'
}

test_changing_files() {
  mkdir changing
  head -c 48M /dev/zero >changing/growing
  printf 'calm' >changing/calm
  (while [[ ! -e stop ]]; do printf x >>changing/growing; done) &
  local writer=$!
  expect_status 1 changing
  touch stop
  wait "$writer"
  expect_in err 'changing/growing: changed while it was being read'
  grep -qF '  changing/calm' out || fail 'a file beside one that grows is missing'
  ! grep -qF growing out || fail 'a file that grew has a checksum'

  # Entries that come and go: whatever is printed is true, and nothing hangs.
  mkdir racing
  rm -f stop
  (while [[ ! -e stop ]]; do
    for i in {1..50}; do mkdir -p "racing/d$i" && printf x >"racing/d$i/f"; done
    for i in {1..50}; do rm -rf "racing/d$i"; done
  done) 2>/dev/null &
  writer=$!
  local i status digest
  digest=$(printf x | sha256sum | cut -c 1-64)
  for i in {1..20}; do
    timeout 60 "$program" racing >out 2>err
    status=$?
    [[ $status -le 1 ]] || fail "status $status with a tree that changes"
    # An x that is not written yet is an empty file.
    ! grep -vE "^($digest|$(sha256sum </dev/null | cut -c 1-64))  racing/d[0-9]+/f$" out ||
      fail 'a wrong line for a tree that changes'
  done
  touch stop
  wait "$writer"
}

test_many_files() {
  mkdir many
  (cd many && head -c 24M /dev/urandom | split -a 4 -b 16K - f)  # 1536 files
  head -c 20M /dev/urandom >many/large
  expect_reference many
  expect_reference --chaos many
  expect_in err ' died'
  # 7 are due. A death or two may be missed at the end, when there is nothing left to kill.
  local died
  died=$(sed -n 's/.*, \([0-9]*\) workers\{0,1\} died.*/\1/p' err)
  [[ ${died:-0} -ge 4 && $died -le 8 ]] || fail "deaths under chaos: $(cat err)"
  expect_reference --chaos -j 5 many
}

test_terminal() {
  if ! command -v script >/dev/null; then
    skip 'the progress bar: there is no script command'
    return
  fi
  truncate -s 600M many/huge
  script -qec "stty cols 100; '$program' -j1 many >/dev/null" /dev/null >screen </dev/null
  rm many/huge
  grep -qaE '\] [0-9]+/1538 files, .*MB/s, ETA' screen || fail "no bar: $(head -c 300 screen)"
  grep -qaE $'\r {20,}\rchecksum: 1538 files' screen || fail "bar not erased: $(tail -c 300 screen)"
}

for test in nasty_names links_as_root single_file nothing_to_do options output_file broken_stdout \
  unreadable changing_files many_files terminal; do
  printf '%s\n' "$test"
  "test_$test"
done
[[ $failures -eq 0 ]] || {
  printf '%s failures\n' "$failures" >&2
  exit 1
}
