#!/usr/bin/env python3
"""Guards the kernels against slowing down: their instructions under callgrind against those of instructions/counts.json.

    check_instructions.py [--program build/release/benchmarks/benchmark_instructions] [--update]

Ends with 1 when a kernel takes more instructions than the file says, or fewer, by more than its tolerance; --update
rewrites the file. Counts hold for one compiler, C library and valgrind: with others, or without valgrind, it says so
and checks nothing.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "instructions" / "counts.json"
TOLERANCE = 0.03


def skip(reason):
    print(f"skipped: instruction counts are not checked: {reason}")
    sys.exit(0)


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measure(program):
    """Instructions by kernel: the program has callgrind write a file after each."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts", program]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} ended with {run.returncode}:\n{run.stderr}")
        counts = {}
        for file in pathlib.Path(folder).glob("counts.*"):
            text = file.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if name and total:
                counts[name.group(1)] = int(total.group(1))
    if not counts:
        sys.exit(f"callgrind wrote no counts for {program}")
    return dict(sorted(counts.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/benchmarks/benchmark_instructions")
    parser.add_argument("--update", action="store_true", help="write the counts found to counts.json")
    a = parser.parse_args()
    a.program = a.program.resolve()

    if not shutil.which("valgrind"):
        skip("valgrind is not installed")
    if not a.program.exists():
        skip(f"{a.program.name} was not built (it needs x86-64 and valgrind/callgrind.h)")
    if "avx2" not in pathlib.Path("/proc/cpuinfo").read_text():
        skip("they are those of AVX2, which this processor lacks")
    build = output_of(a.program, "--build") + ", " + output_of("valgrind", "--version").replace("-", " ")

    if a.update:
        FILE.write_text(json.dumps({"build": build, "tolerance": TOLERANCE, "instructions": measure(a.program)}, indent=2) + "\n")
        print(f"wrote {FILE.relative_to(ROOT)}")
        return
    known = json.loads(FILE.read_text())
    if known["build"] != build:
        skip(f"they are those of {known['build']}; here is {build}")

    found = measure(a.program)
    expected = known["instructions"]
    wrong = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            wrong.append(f"{name}: in the file, but not counted")
        elif name not in expected:
            wrong.append(f"{name}: {found[name]} instructions, not in the file")
        elif abs(found[name] - expected[name]) > known["tolerance"] * expected[name]:
            change = 100 * (found[name] / expected[name] - 1)
            wrong.append(f"{name}: expected {expected[name]} instructions, found {found[name]} ({change:+.1f} %)")
    if wrong:
        print("\n".join(wrong))
        sys.exit(
            f"{len(wrong)} of {len(expected)} kernels differ by more than {100 * known['tolerance']:g} %. "
            "Where that is meant: benchmarks/check_instructions.py --update"
        )
    print(f"{len(found)} kernels take the instructions that are expected, to {100 * known['tolerance']:g} %")


if __name__ == "__main__":
    main()
