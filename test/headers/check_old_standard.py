#!/usr/bin/env python3
"""check_old_standard.py INCLUDE_DIRECTORY COMPILER [FLAG...]

Compiles each public header alone as C++17, and succeeds only if the first error is always that
C++20 is needed.
"""

import os
import pathlib
import subprocess
import sys

WANTED = "brood needs C++20: compile with -std=c++20 or later"


def main():
    include = pathlib.Path(sys.argv[1])
    command = sys.argv[2:] + ["-std=c++17", f"-I{include}", "-fsyntax-only", "-x", "c++", "-"]
    headers = sorted(include.glob("brood/*.hpp"))
    if not headers:
        sys.exit(f"{include}: no headers")
    wrong = []
    for header in headers:
        done = subprocess.run(
            command,
            input=f'#include "brood/{header.name}"\n',
            capture_output=True,
            text=True,
            env=dict(os.environ, LC_ALL="C"),
        )
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        if done.returncode == 0 or not errors or WANTED not in errors[0]:
            wrong.append(f"{header.name}: {errors[0] if errors else 'compiles'}")
    if wrong:
        sys.exit("begin these with #include \"brood/detail/cpp20.hpp\":\n" + "\n".join(wrong))


main()
