#!/usr/bin/env python3
"""single_header.py INCLUDE_DIR OUTPUT: the library for the host in one header.

Writes what <sparsegrad/sparsegrad.hpp> and <sparsegrad/extras/...> include of the library's own, each file once, to
OUTPUT. Includes of other libraries stay: Eigen is needed beside it. Files, the other backends, and extras that need
another library (MPI) are not in it.
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
OTHERS = re.compile(r"^\s*#\s*include\s*<(mpi|nccl)\.h>", re.MULTILINE)
OPENS = re.compile(r"^\s*#\s*if")
CLOSES = re.compile(r"^\s*#\s*endif")


class Joiner:
    def __init__(self, root):
        self.root = root
        self.done = set()
        self.lines = []

    def add(self, path):
        path = path.resolve()
        if path in self.done:
            return
        self.done.add(path)
        begin, depth, opened = len(self.lines), 0, None
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() == "#pragma once":
                continue
            include = INCLUDE.match(line)
            if include:
                target = path.parent / include[1]
                if depth:
                    # What a file needs must not depend on the condition under which that file is read.
                    inside, self.lines = self.lines[opened:], self.lines[:opened]
                    for needed in self.includes(target):
                        self.add(needed)
                    opened = len(self.lines)
                    self.lines += inside
                self.add(target)
                continue
            if OPENS.match(line):
                if depth == 0:
                    opened = len(self.lines)
                depth += 1
            depth -= bool(CLOSES.match(line))
            self.lines.append(line)
        name = path.relative_to(self.root.parent).as_posix()
        if depth:
            sys.exit(f"{name}: a #if is not closed")
        if any(line.strip() for line in self.lines[begin:]):
            self.lines.append("")

    def includes(self, path):
        found = map(INCLUDE.match, path.read_text(encoding="utf-8").splitlines())
        return [path.parent / include[1] for include in found if include]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1]).resolve() / "sparsegrad"
    version = re.search(r'#define SPARSEGRAD_VERSION "(.+)"', (root / "version.hpp").read_text(encoding="utf-8"))[1]
    joiner = Joiner(root)
    joiner.add(root / "sparsegrad.hpp")
    for extra in sorted((root / "extras").glob("*.hpp")):
        if not OTHERS.search(extra.read_text(encoding="utf-8")):
            joiner.add(extra)
    output = pathlib.Path(sys.argv[2])
    output.parent.mkdir(parents=True, exist_ok=True)
    licence = (root.parent.parent / "LICENSE").read_text(encoding="utf-8").strip()
    head = [
        f"sparsegrad {version} in one header, for the host: C++20 and Eigen 3.4 or newer are all that it needs.",
        "Made by scripts/single_header.py. It takes the place of the folder include/sparsegrad; io/, the other",
        "backends and MPI are not in it.",
        "",
        *licence.splitlines(),
    ]
    head = "\n".join(("// " + line).rstrip() for line in head) + "\n#pragma once\n\n"
    output.write_text(head + re.sub(r"\n{3,}", "\n\n", "\n".join(joiner.lines)) + "\n", encoding="utf-8")
    print(f"{output}: {len(joiner.done)} headers")


if __name__ == "__main__":
    main()
