#!/usr/bin/env python3
"""What nvcc made of the block kernels, against a table: barriers, tensor-core instructions, registers, memory.

    check_machine_code.py [--write] TABLE FILE...

FILE is an object file, a program or a cubin with code for one architecture. --write makes the table anew from them.
A kernel fails where
- its barriers are not one fewer than its phases, or, where it waits within a phase, not those of the table;
- it has no tensor-core instruction (HMMA) and the table has some;
- it uses more local memory (spills) or shared memory than the table says, or 8 registers more;
- its code is for compute capability 9.0 or later, and it touches global memory before it has waited for the kernel that
  was launched before it (ACQBULK): launches overlap there.
Ends with 77, which counts as skipped, where cuobjdump is not found: it is looked for on PATH and in .venv, to which
scripts/setup.sh --tools brings it.
"""

import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys

REGISTERS_MORE = 8
COLUMNS = ("barriers", "hmma", "registers", "local", "shared")
Code = collections.namedtuple("Code", COLUMNS)


def find_cuobjdump():
    """The program's path; nvdisasm, which it calls, stands beside it. None where there is none."""
    root = pathlib.Path(__file__).resolve().parents[2]
    folders = [str(p) for p in root.glob(".venv/lib/python3*/site-packages/nvidia/*/bin")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    return shutil.which("cuobjdump") if shutil.which("nvdisasm") else None


def short_name(demangled):
    """(the kernel object's type without namespaces, its phases), or None for other kernels."""
    found = re.match(r".*\bblock_kernel<(.*), (\d+)>\(", demangled)
    if not found:
        return None
    name = re.sub(r"\b\w+::", "", found.group(1).replace("(anonymous namespace)::", ""))
    return name.replace("> >", ">>").replace("> >", ">>"), int(found.group(2))


def read_code(cuobjdump, path):
    """{mangled name: Code} of a file, and the names of those that do not wait for the kernel before them."""
    def lines(option):
        return subprocess.run([cuobjdump, option, path], check=True, capture_output=True, text=True).stdout.splitlines()

    usage = {}
    name = None
    for line in lines("-res-usage"):
        if found := re.match(r"\s*Function (\S+):", line):
            name = found.group(1)
        elif name and (found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line)):
            registers, stack, shared, local = map(int, found.groups())
            usage[name] = registers, stack + local, shared
    counts = collections.defaultdict(lambda: [0, 0])
    overlaps = False
    waited, hasty = set(), set()
    for line in lines("-sass"):
        if found := re.search(r"code for sm_(\d+)", line):
            overlaps = int(found.group(1)) >= 90
        elif found := re.match(r"\s*Function : (\S+)", line):
            name = found.group(1)
        elif re.search(r"\bBAR\.(SYNC|RED|ARV)", line):
            counts[name][0] += 1
        elif re.search(r"\bHMMA\.", line):
            counts[name][1] += 1
        elif re.search(r"\bACQBULK\b", line):
            waited.add(name)
        elif overlaps and name not in waited and re.search(r"\b(LDG|STG|LD|ST|ATOMG?|REDG?|LDGSTS)\.E\b", line):
            hasty.add(name)
    return {name: Code(*counts[name], *numbers) for name, numbers in usage.items()}, hasty


def demangle(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    return text.splitlines()


def read_kernels(cuobjdump, paths):
    """{short name: (phases, Code)}; of a kernel that stands in several files, the most of everything. And the short names
    of those that do not wait."""
    kernels = {}
    not_waiting = set()
    for path in paths:
        code, hasty = read_code(cuobjdump, path)
        for mangled, demangled in zip(code, demangle(code)):
            short = short_name(demangled)
            if not short:
                continue
            name, phases = short
            if mangled in hasty:
                not_waiting.add(name)
            before = kernels[name][1] if name in kernels else code[mangled]
            kernels[name] = phases, Code(*map(max, before, code[mangled]))
    return kernels, not_waiting


def read_table(path):
    rows = (line.split("\t") for line in pathlib.Path(path).read_text().splitlines()[1:])
    return {name: Code(*map(int, numbers)) for name, *numbers in rows}


def write_table(path, kernels):
    lines = ["\t".join(("kernel", *COLUMNS))]
    lines += ["\t".join((name, *map(str, kernels[name][1]))) for name in sorted(kernels)]
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def problems_of(kernels, not_waiting, table):
    found = [f"{name}: touches memory before it waits for the kernel before it" for name in sorted(not_waiting)]
    for name, (phases, code) in sorted(kernels.items()):
        if name not in table:
            found.append(f"{name}: not in the table; write it anew (--write) and look at what has changed")
            continue
        wanted = table[name]
        # Those that wait within a phase have more in the table.
        barriers = max(phases - 1, wanted.barriers)
        if code.barriers != barriers:
            found.append(f"{name}: {code.barriers} barriers, expected {barriers} of {phases} phases")
        if wanted.hmma and not code.hmma:
            found.append(f"{name}: no tensor-core instruction, expected some {wanted.hmma}")
        for column, more in (("registers", REGISTERS_MORE), ("local", 0), ("shared", 0)):
            value, limit = getattr(code, column), getattr(wanted, column) + more
            if value > limit:
                found.append(f"{name}: {value} {'bytes ' if column != 'registers' else ''}{column}, expected at most {limit}")
    found += [f"{name}: in the table, but in none of the files" for name in sorted(set(table) - set(kernels))]
    return found


def main(arguments):
    write = arguments[:1] == ["--write"]
    table, *files = arguments[write:]
    cuobjdump = find_cuobjdump()
    if not cuobjdump:
        print("skipped: no cuobjdump and nvdisasm on PATH or in .venv (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)")
        return 77
    kernels, not_waiting = read_kernels(cuobjdump, files)
    if not kernels:
        print(f"no block kernel in {', '.join(files)}", file=sys.stderr)
        return 1
    if write:
        write_table(table, kernels)
        return 0
    problems = problems_of(kernels, not_waiting, read_table(table))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(kernels)} kernels, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
