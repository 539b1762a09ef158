#!/usr/bin/env python3
"""check_includes.py DIR: the shape of the headers in DIR (include/sparsegrad).

1. No header has more than 450 lines: one concept a file.
2. No include goes up: core/ includes core/ alone; the stages at the top include core/ and each other; backend/ includes
   core/ and backend/; extras/ and io/ include core/, the stages and themselves. The umbrella headers may include all.
3. No includes go in a circle.
"""

import pathlib
import re
import sys

MOST_LINES = 450
UMBRELLAS = {"sparsegrad.hpp", "sparsegrad_cuda.cuh"}
MAY = {
    "core": {"core"},
    "stages": {"core", "stages"},
    "backend": {"core", "backend"},
    "extras": {"core", "stages", "extras"},
    "io": {"core", "stages", "io"},
    "compiled": {"core", "stages", "backend", "compiled"},
}


def layer(name):
    if name == "version.hpp":  # core/abi.hpp has it in a name
        return "core"
    return name.split("/")[0] if "/" in name else "stages"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    headers = {h.relative_to(root).as_posix(): h for h in [*root.rglob("*.hpp"), *root.rglob("*.cuh")]}
    if not headers:
        sys.exit(f"no headers in {root}")
    found = []
    includes = {}
    for name, path in sorted(headers.items()):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MOST_LINES:
            found.append(f"{name} has {lines} lines, expected at most {MOST_LINES}")
        targets = []
        for target in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
            full = (path.parent / target).resolve()
            if not full.is_relative_to(root) or full.relative_to(root).as_posix() not in headers:
                found.append(f'{name} includes "{target}", which is no header here')
                continue
            targets.append(full.relative_to(root).as_posix())
        includes[name] = targets
        if name in UMBRELLAS:
            continue
        for target in targets:
            if layer(target) not in MAY[layer(name)] or target in UMBRELLAS:
                found.append(f"{name} includes {target}: the arrow goes up")

    state = {}

    def visit(name, path):
        state[name] = "open"
        for target in includes[name]:
            if state.get(target) == "open":
                found.append("a circle: " + " -> ".join([*path[path.index(target):], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[name] = "done"

    for name in includes:
        if name not in state:
            visit(name, [name])
    print("\n".join(found) or f"{len(headers)} headers: no arrow up, no circle, none above {MOST_LINES} lines")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
