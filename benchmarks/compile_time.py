#!/usr/bin/env python3
"""What including costs: processor seconds and memory of compiling each public header alone, as a Markdown table.

    compile_time.py [--compiler g++] [--nvcc nvcc] [--rounds 2] [--limit 8] [--output FILE]

Each header is a unit of one line, compiled with -O2 in turn with the others; of its rounds the least time counts.
examples/01_quickstart.cpp stands for a program that uses the library. .cuh files go through nvcc where there is one.
Ends with 1 when a .hpp takes more than --limit seconds.
"""

import argparse
import datetime
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from case_program import processor, wrapped

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"
PROGRAM = ROOT / "examples" / "01_quickstart.cpp"
FLAGS = ["-std=c++20", "-O2", "-c", "-I", str(INCLUDE), "-isystem", "/usr/include/eigen3"]


def public_headers(suffix):
    """All but those that only other headers include: detail/ and folders of a backend's parts."""
    headers = sorted(path.relative_to(INCLUDE) for path in (INCLUDE / "sparsegrad").rglob(f"*{suffix}"))
    return [h for h in headers if "detail" not in h.parts and not (h.parts[1] == "backend" and len(h.parts) > 3)]


def compile_once(command):
    """(processor seconds, peak memory in MiB), of the compiler with all that it starts; None when it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        print(f"{' '.join(command)} failed:\n{errors.decode()}", file=sys.stderr)
        return None
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def version(compiler):
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=8, help="seconds of a .hpp")
    parser.add_argument("--output", help="file; default: the standard output")
    a = parser.parse_args()

    load = os.getloadavg()[0]
    units = [(str(header), a.compiler, []) for header in public_headers(".hpp")]
    units.append((str(PROGRAM.relative_to(ROOT)), a.compiler, []))
    compilers = [version(a.compiler).splitlines()[0]]
    if shutil.which(a.nvcc):
        units += [(str(header), a.nvcc, ["-x", "cu", "-arch=sm_80"]) for header in public_headers(".cuh")]
        compilers.append("nvcc " + re.search(r"release ([\d.]+)", version(a.nvcc)).group(1) + " for sm_80")
    else:
        print(f"the .cuh files are left out: no {a.nvcc}", file=sys.stderr)

    best = {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        unit = pathlib.Path(folder) / "unit.cpp"
        for _ in range(a.rounds):
            for name, compiler, flags in units:
                if name in failed:
                    continue
                source = PROGRAM if name.endswith(".cpp") else unit
                unit.write_text(f"#include <{name}>\n")
                cost = compile_once([compiler, *flags, *FLAGS, str(source), "-o", f"{folder}/unit.o"])
                if cost is None:
                    failed.append(name)
                else:
                    best[name] = min(cost, best.get(name, cost))

    heaviest_first = sorted(best.items(), key=lambda item: -item[1][0])
    lines = [
        "# Seconds of a header",
        "",
        *wrapped(
            f"`benchmarks/compile_time.py --rounds {a.rounds}`: `-O2 -c`, processor time, rounds: {a.rounds}; {'; '.join(compilers)}; "
            f"{processor()}; {datetime.date.today()}; load average before {load:.1f}."
        ),
        "",
        "| header | compiler | seconds | memory, MiB |",
        "|---|---|--:|--:|",
    ]
    by = {name: compiler for name, compiler, _ in units}
    for name, (seconds, memory) in heaviest_first:
        lines.append(f"| `{name}` | {pathlib.Path(by[name]).name} | {seconds:.1f} | {memory:.0f} |")
    slow = [name for name, (seconds, _) in best.items() if name.endswith(".hpp") and seconds > a.limit]
    lines += ["", *wrapped(f"Headers above {a.limit:g} s: {', '.join(slow) if slow else 'none'}.")]
    text = "\n".join(lines) + "\n"
    print(text)
    if a.output:
        pathlib.Path(a.output).write_text(text)
    if failed:
        sys.exit(f"not compiled: {', '.join(failed)}")
    if slow:
        sys.exit(1)


if __name__ == "__main__":
    main()
