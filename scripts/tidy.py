#!/usr/bin/env python3
"""The style rules that a machine can check: who may include whom, line and file lengths, where
getenv and exit may stand, and clang-format. Prints one line a finding; exit 1 if there is any."""
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Folder -> folders its files may include from (design.md: includes go downward only).
MAY_INCLUDE = {
    "base": {"base"},
    "config": {"config", "base"},
    "engine": {"engine", "base"},
    "kvstore": {"kvstore", "base"},
    "scheduler": {"scheduler", "kvstore", "engine", "base"},
    "scripts": {"scripts"},
    "server": {"server", "scheduler", "kvstore", "engine", "config", "base"},
    "tests": {"tests", "server", "scheduler", "kvstore", "engine", "config", "base"},
}
COLUMNS_MAX = 100
LINES_MAX = 1000  # tables excepted
HEADER_LINES_MAX = 300
FUNCTION_LINES_MAX = 110
TABLE_FILE = re.compile(r"(_tables?|unicode_data|_grids?)\.(c|h)$")
EXIT_ALLOWED = re.compile(r"^(server/main\.c|tests/|scripts/demo/)")
GETENV_ALLOWED = re.compile(r"^(config/|tests/)")


def sources():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.c", "*.h"],
                            cwd=ROOT, capture_output=True, text=True, check=True)
    return [p for p in listed.stdout.split("\n") if p and os.path.exists(os.path.join(ROOT, p))]


def code_only(text):
    """The text with comments and string literals blanked, line breaks kept."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def long_functions(code):
    """(line, length) of every function whose body is longer than the limit; a body begins with a
    brace in the first column, as the format has it."""
    start = None
    for number, line in enumerate(code.split("\n"), 1):
        if line == "{":
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > FUNCTION_LINES_MAX:
                yield start, number - start
            start = None


def check_file(path, findings):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    folder = path.split("/")[0]
    lines = text.split("\n")
    code = code_only(text)
    allowed = MAY_INCLUDE.get(folder)
    if allowed is None:
        findings.append(f"{path}: C sources belong in one of {', '.join(sorted(MAY_INCLUDE))}")
        return
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and not TABLE_FILE.search(path):
            findings.append(f"{path}:{number}: {len(line)} columns (at most {COLUMNS_MAX})")
        include = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
        if include and include.group(1) not in allowed:
            findings.append(f"{path}:{number}: {folder}/ may not include from {include.group(1)}/")
    limit = HEADER_LINES_MAX if path.endswith(".h") else LINES_MAX
    if len(lines) > limit and not TABLE_FILE.search(path):
        findings.append(f"{path}: {len(lines)} lines (at most {limit})")
    for start, length in long_functions(code):
        if not path.startswith("tests/"):
            findings.append(f"{path}:{start}: function of {length} lines (at most {FUNCTION_LINES_MAX})")
    for word, where in (("exit", EXIT_ALLOWED), ("abort", EXIT_ALLOWED), ("getenv", GETENV_ALLOWED)):
        if where.search(path):
            continue
        for match in re.finditer(rf"(?<![\w.>]){word}\s*\(", code):
            number = code.count("\n", 0, match.start()) + 1
            findings.append(f"{path}:{number}: {word}() is not for this folder")
    promise = re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    if promise:
        number = text.count("\n", 0, promise.start()) + 1
        findings.append(f"{path}:{number}: a promise ({promise.group()}) instead of work")


def check_format(paths, findings):
    if not shutil.which("clang-format"):
        print("tidy: clang-format is not here; formatting was not checked")
        return
    plain = [p for p in paths if not TABLE_FILE.search(p)]
    result = subprocess.run(["clang-format", "--dry-run", "-Werror", *plain], cwd=ROOT,
                            capture_output=True, text=True)
    for path in sorted(set(re.findall(r"^(\S+?):\d+:\d+: error:", result.stderr, re.M))):
        findings.append(f"{path}: not formatted (clang-format -i {path})")


def main():
    findings = []
    paths = sources()
    for path in paths:
        check_file(path, findings)
    check_format(paths, findings)
    for finding in findings:
        print(finding)
    print(f"tidy: {len(paths)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
