#!/usr/bin/env python3
"""Checks what clang-format and the compiler don't: layers, sizes, leftovers.

    tools/check_style.py [ROOT]

Prints one line for each finding, `file:line: what is wrong: what to do`; exit status 1 if any.
"""

import os
import pathlib
import re
import subprocess
import sys

MAX_COLUMNS = 100
MAX_FUNCTION_LINES = 80
MAX_PUBLIC_HEADER_LINES = 330

# A folder of src/ may include itself and every folder of a lower rank. Where one is named, so are
# those beside it.
RANK = {
    "sys": 0,
    "shm": 1,
    "codec": 1,
    "channel": 2,
    "warden": 3,
    "start": 4,
    "shared": 5,
    "pool/protocol": 6,
    "pool/worker": 7,
    "pool/supervisor": 8,
    "pool/caller": 9,
    "pool/futures": 10,
    "manager": 11,
}

# Public headers that belong to a layer; all others are vocabulary that any layer may use.
PUBLIC_LAYER = {
    "brood/process.hpp": "start",
    "brood/start_method.hpp": "start",
    "brood/signals.hpp": "start",
    "brood/wait.hpp": "start",
    "brood/cpu_count.hpp": "start",
    "brood/hooks.hpp": "start",
    "brood/log.hpp": "start",
    "brood/pool.hpp": "pool/protocol",
    "brood/replay.hpp": "pool/protocol",
    "brood/future.hpp": "pool/protocol",
    "brood/queue.hpp": "shared",
    "brood/pipe.hpp": "shared",
    "brood/locks.hpp": "shared",
    "brood/shared.hpp": "shared",
    "brood/value.hpp": "shared",
    "brood/array.hpp": "shared",
    "brood/shared_memory.hpp": "shared",
    "brood/shareable_list.hpp": "shared",
    "brood/fd.hpp": "shared",
    "brood/listener.hpp": "shared",
    "brood/manager.hpp": "manager",
    "brood/brood.hpp": None,
}

# Headers that open a door to the kernel or to the C library's view of it.
SYSTEM_FOLDERS = ("sys", "linux", "asm", "arpa", "bits", "net", "netinet")
SYSTEM_HEADERS = {
    "aio.h", "csignal", "dirent.h", "dlfcn.h", "elf.h", "err.h", "execinfo.h", "fcntl.h",
    "fnmatch.h", "ftw.h", "getopt.h", "glob.h", "grp.h", "ifaddrs.h", "link.h", "malloc.h",
    "mqueue.h", "netdb.h", "poll.h", "pthread.h", "pwd.h", "sched.h", "semaphore.h", "signal.h",
    "spawn.h", "syslog.h", "termios.h", "time.h", "ucontext.h", "unistd.h", "wait.h",
}  # fmt: skip

CPP = {".hpp", ".cpp", ".h", ".cc"}
TEXT = CPP | {".md", ".txt", ".cmake", ".in", ".json", ".py", ".sh", ".yml", ".yaml", ""}

# Written so that they don't match themselves.
UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")
PRIVATE_PATH = re.compile(r"(?<![\w.~*-])/(?:home|work|root)/")

# What a formatter leaves of a line that was too long: one word outside its column.
STRAY_COMMENT = re.compile(r"//   [a-z]+[,;.]?$")

INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


class Findings:
    def __init__(self):
        self.lines = []

    def add(self, path, line, text):
        self.lines.append(f"{path}:{line}: {text}")


def our_files(root):
    """All files that are or may be committed, relative to root."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout
        names = [name.decode() for name in listed.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if f not in ("build", ".git", "__pycache__")]
            names += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    paths = sorted({pathlib.PurePosixPath(name) for name in names})
    return [p for p in paths if (root / p).is_file() and not (root / p).is_symlink()]


def check_lines(path, lines, findings):
    is_cpp = path.suffix in CPP
    for number, line in enumerate(lines, 1):
        # Two spaces at the end of a line mean a line break in Markdown: say it with a backslash.
        if line != line.rstrip():
            findings.add(path, number, "trailing whitespace: remove it")
        if is_cpp and len(line) > MAX_COLUMNS:
            findings.add(path, number, f"{len(line)} columns: break it at {MAX_COLUMNS}")
        if STRAY_COMMENT.match(line):
            findings.add(path, number, "torn comment: join the word with its lines")
        if "\t" in line and is_cpp:
            findings.add(path, number, "tab: use spaces")
        mark = UNFINISHED.search(line)
        if mark:
            findings.add(path, number, f"{mark[0]}: finish it, or write an issue and remove the mark")
        if PRIVATE_PATH.search(line):
            findings.add(path, number, "path of somebody's machine: use a relative or made-up one")


def layer_of(parts):
    """Of a path below src/, given as its parts: the longest folder that has a rank, or its first."""
    for count in range(len(parts) - 1, 0, -1):
        if "/".join(parts[:count]) in RANK:
            return "/".join(parts[:count])
    return parts[0]


def is_system(header):
    return header in SYSTEM_HEADERS or header.split("/")[0] in SYSTEM_FOLDERS


def check_includes(path, lines, findings):
    top = path.parts[0]
    if top not in ("src", "include"):
        return
    layer = layer_of(path.parts[1:]) if top == "src" and len(path.parts) > 2 else None
    if top == "src" and layer is not None and layer not in RANK:
        findings.add(path, 1, f"unknown layer '{layer}': give it a rank in tools/check_style.py")
        return
    for number, line in enumerate(lines, 1):
        include = INCLUDE.match(line)
        if not include:
            continue
        quoted, header = include[1] == '"', include[2]
        if not quoted and layer != "sys" and is_system(header):
            findings.add(
                path, number, f"<{header}> outside src/sys: ask src/sys for it, the only door"
            )
        first = header.split("/")[0]
        included = layer_of(header.split("/"))
        if top == "include":
            if quoted and first != "brood":
                findings.add(
                    path, number, f'"{header}" in a public header: only brood/ and std are installed'
                )
            continue
        if quoted and ("/" not in header or first == ".."):
            findings.add(path, number, f'"{header}": write it as "layer/file.hpp", from src/')
        elif quoted and included in RANK and included != layer and RANK[included] >= RANK[layer]:
            findings.add(
                path,
                number,
                f'"{header}" from layer {layer}: includes point downward only; '
                f"move what both need below {layer}, or hand it in by a parameter",
            )
        elif header in PUBLIC_LAYER:
            owner = PUBLIC_LAYER[header]
            if owner is None:
                findings.add(path, number, f"{header} in src/: include the one header that is used")
            elif RANK[owner] > RANK[layer]:
                findings.add(
                    path, number, f"{header} belongs to layer {owner}, above {layer}: don't use it here"
                )


def without_literals(text):
    """The same text with comments, literals and preprocessor lines blanked; lines stay lines."""

    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    pattern = re.compile(
        r"//(?:\\\n|[^\n])*"
        r"|/\*.*?\*/"
        r'|R"(?P<end>[^()\s\\"]{0,16})\(.*?\)(?P=end)"'
        r'|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9a-fA-F])'(?:\\[^\n]|[^'\\\n])[^'\n]{0,10}'"
        r"|^[ \t]*#(?:\\\n|[^\n])*",
        re.DOTALL | re.MULTILINE,
    )
    return pattern.sub(blank, text)


NEVER_A_FUNCTION = re.compile(r"(?:(?:inline|export)\s+)*(?:namespace|enum|union|concept)\b")
# With these in front, it is one if a parameter list is the last thing before the brace.
SELDOM_A_FUNCTION = re.compile(
    r"(?:(?:inline|static|export|typedef|constexpr|const)\s+)*(?:class|struct|extern|requires)\b"
)
ENDS_LIKE_FUNCTION = re.compile(r"\)(?:\s|const\b|noexcept\b|override\b|final\b|&)*$")


def without_template_head(head):
    """`template <...>` removed from the front, as often as there are any."""
    while True:
        match = re.match(r"\s*template\s*<", head)
        if not match:
            return head.strip()
        depth, at = 1, match.end()
        while at < len(head) and depth:
            depth += {"<": 1, ">": -1}.get(head[at], 0)
            at += 1
        head = head[at:]


def opens_function(head):
    head = re.sub(r"\b(?:public|private|protected)\s*:", " ", head)
    head = re.sub(r"\[\[.*?\]\]", " ", head, flags=re.DOTALL)
    head = without_template_head(head)
    if "(" not in head or head.endswith(("=", ",")) or NEVER_A_FUNCTION.match(head):
        return False
    return not SELDOM_A_FUNCTION.match(head) or bool(ENDS_LIKE_FUNCTION.search(head))


def check_functions(path, text, findings):
    code = without_literals(text)
    line, parens, head = 1, 0, ""
    scopes = []  # (is function or inside one, first line, depth of parentheses outside)
    for char in code:
        if char == "\n":
            line += 1
            head += " "
        elif char == "{":
            inside = bool(scopes) and scopes[-1][0] != ""
            kind = ""
            if inside:
                kind = "nested"
            elif parens == 0 and opens_function(head):
                kind = "function"
            scopes.append((kind, line, parens))
            head, parens = "", 0
        elif char == "}":
            if not scopes:
                return  # braces under #if: better no answer than a wrong one
            kind, first, parens = scopes.pop()
            length = line - first + 1
            if kind == "function" and length > MAX_FUNCTION_LINES:
                findings.add(
                    path,
                    first,
                    f"function of {length} lines: split it by its steps "
                    f"(at most {MAX_FUNCTION_LINES})",
                )
            head = ""
        elif char == ";":
            head = ""
        else:
            parens += {"(": 1, ")": -1}.get(char, 0)
            head += char


def check_size(path, lines, findings):
    is_public = path.parts[:2] == ("include", "brood") and len(path.parts) == 3
    if is_public and len(lines) > MAX_PUBLIC_HEADER_LINES:
        findings.add(
            path,
            len(lines),
            f"public header of {len(lines)} lines: nobody reads that; move what users don't need "
            f"to include/brood/detail (at most {MAX_PUBLIC_HEADER_LINES})",
        )


GTEST = re.compile(r"^TEST(?:_[FP])?\(\s*(\w+),\s*(\w+)\s*\)", re.MULTILINE)
NAMED_TEST = re.compile(r"`(\w+Test\.\w+)`")


def check_named_tests(path, lines, tests, findings):
    """Documents name only tests that exist."""
    for number, line in enumerate(lines, 1):
        for name in NAMED_TEST.findall(line):
            if name not in tests:
                findings.add(path, number, f"there is no test {name}: it was renamed or removed")


def tests_of(root, paths):
    names = set()
    for path in paths:
        if path.parts[0] == "test" and path.suffix == ".cpp":
            text = (root / path).read_text(encoding="utf-8")
            names |= {".".join(match) for match in GTEST.findall(text)}
    return names


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    findings = Findings()
    paths = our_files(root)
    tests = tests_of(root, paths)
    for path in paths:
        if path.suffix not in TEXT or path.name == "LICENSE":
            continue
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        elif text:
            findings.add(path, len(lines), "no newline at the end of the file: add it")
        check_lines(path, lines, findings)
        if path.suffix == ".md":
            check_named_tests(path, lines, tests, findings)
        if path.suffix in CPP:
            check_includes(path, lines, findings)
            check_size(path, lines, findings)
            if path.parts[0] in ("src", "include"):
                check_functions(path, text, findings)

    for finding in findings.lines:
        print(finding)
    if findings.lines:
        print(f"{len(findings.lines)} findings")
        sys.exit(1)


main()
