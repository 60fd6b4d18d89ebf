#!/usr/bin/env python3
"""check_refusal.py PROGRAM.cpp COMPILER [FLAG...]

Compiles PROGRAM and succeeds only if that fails with the message named in the program's first
line, `// EXPECT: text`; with `// BEFORE: other` in the second line, only if that comes later or not
at all. A program named control_*.cpp must compile.
"""

import os
import pathlib
import re
import subprocess
import sys


def main():
    program = pathlib.Path(sys.argv[1])
    compiler = sys.argv[2:]
    # Without carets the compiler's output has only its messages: a quoted source line would
    # contain the expected text whatever the error.
    done = subprocess.run(
        compiler + quiet_flags(compiler[0]) + ["-fsyntax-only", str(program)],
        capture_output=True,
        text=True,
        env=dict(os.environ, LC_ALL="C"),
    )

    if program.name.startswith("control_"):
        if done.returncode != 0:
            sys.exit(f"{program}: must compile, and does not:\n{done.stderr}")
        return

    lines = program.read_text().split("\n")
    wanted = re.fullmatch(r"// EXPECT: (.*\S)\s*", lines[0])
    if not wanted:
        sys.exit(f"{program}:1: begin the file with '// EXPECT: text of the message'")
    if done.returncode == 0:
        sys.exit(f"{program}: compiles, and must be refused with: {wanted[1]}")
    if wanted[1] not in done.stderr:
        sys.exit(f"{program}: is refused, but not with: {wanted[1]}\n{done.stderr}")
    later = re.fullmatch(r"// BEFORE: (.*\S)\s*", lines[1])
    if later and later[1] in done.stderr.partition(wanted[1])[0]:
        sys.exit(f"{program}: is refused with {later[1]} before {wanted[1]}\n{done.stderr}")


def quiet_flags(compiler):
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    if "clang" in version.stdout:
        return ["-fmessage-length=0", "-fno-caret-diagnostics", "-fno-color-diagnostics"]
    return ["-fmessage-length=0", "-fno-diagnostics-show-caret", "-fdiagnostics-color=never"]


main()
