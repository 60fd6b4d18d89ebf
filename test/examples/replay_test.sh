#!/bin/bash
# replay_test.sh PROGRAM: the example keeps the text that it died of, and dies of it once more.
set -u
program=$1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
ulimit -c 0

out=$("$program" "$directory/died" 'two words' 'Oh no!' 'and three more')
command=$(sed -n 's/^to run it again: //p' <<<"$out")
[[ $(head -n 1 <<<"$out") == 2 && $(tail -n 1 <<<"$out") == 3 && -n $command ]] || {
  echo "wrong: $out"
  exit 1
}
status=0
bash -c "$command; exit \$?" 2>/dev/null || status=$?
# A signal; under UndefinedBehaviorSanitizer another one, or its exit status.
((status != 0)) || {
  echo "wrong: it did not die again: $command"
  exit 1
}
