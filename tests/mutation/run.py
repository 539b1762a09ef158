#!/usr/bin/env python3
"""Mutation test: breaks the code in one place, runs the tests that cover it and sees whether one of them fails.

  tests/mutation/run.py [--only REGEX] [--jobs N]                          run the list, print the score
  tests/mutation/run.py --check                                             only check that the list fits the code

The list is mutations.toml. A mutation is
  file, find     a text that stands exactly once in that file: a whole expression, or whole statements
  replace        the text in its place
  tests          names of ctest's library tests, or "program:NAME" for tests of examples/finetune
  cases          optional: the test cases to run (doctest's pattern), where all of the program would take long
  alone          optional: true where find is neither an expression nor statements, or declares something

All mutations are compiled at once, each behind a switch that an environment variable sets; those that are alone,
or overlap another one, are compiled by themselves. The work happens in a copy of the checkout below build/mutation;
the checkout itself is never changed.
Exit status 0 if at least 95 % were killed, 1 if fewer, 2 if the list does not fit the code or the code does not build.
"""

import argparse
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "mutation"
TREE = WORK / "tree"
ENOUGH = 0.95
PROGRAM = "program:"
SECONDS_A_TEST = 300  # a loop that never ends is killed too
BYTES_A_TEST = 8 << 30  # as is one that takes all memory
KEYS = {"name": str, "file": str, "find": str, "replace": str, "tests": list, "cases": str, "alone": bool}
VARIABLE = "SPARSEGRAD_MUTATION"
SWITCH = f"""#pragma once
#include <cstdlib>
inline const int sparsegrad_mutation = std::getenv("{VARIABLE}") ? std::atoi(std::getenv("{VARIABLE}")) : 0;
"""


def fail(text):
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2)


def read_list():
    with open(HERE / "mutations.toml", "rb") as file:
        mutations = tomllib.load(file)["mutation"]
    names = set()
    for number, m in enumerate(mutations, 1):
        name = m.get("name", "(without a name)")
        for key, type_ in KEYS.items():
            if key not in m and key not in ("cases", "alone"):
                fail(f'mutation "{name}" has no {key}')
            if not isinstance(m.get(key, type_()), type_):
                fail(f'mutation "{name}": {key} is no {type_.__name__}')
        if unknown := m.keys() - KEYS:
            fail(f'mutation "{name}" has the unknown key {min(unknown)}')
        if name in names:
            fail(f'two mutations are called "{name}"')
        names.add(name)
        path = ROOT / m["file"]
        if not path.is_file():
            fail(f'mutation "{name}": {m["file"]} does not exist')
        text = path.read_text()
        if text.count(m["find"]) != 1:
            fail(f'mutation "{name}": its text stands {text.count(m["find"])} times in {m["file"]}, expected once')
        if m["find"] == m["replace"] or not m["tests"]:
            fail(f'mutation "{name}" changes nothing or names no test')
        for test in m["tests"]:
            if not source_of(test):
                fail(f'mutation "{name}": there is no test {test}')
        m["number"] = number
        m["begin"] = text.index(m["find"])
        m["end"] = m["begin"] + len(m["find"])
    return mutations


def source_of(test):
    """Whether a test of that name exists."""
    if test.startswith(PROGRAM):
        return (ROOT / "examples/finetune/tests" / (test.removeprefix(PROGRAM) + ".cpp")).is_file()
    area, _, name = test.partition("_")
    return (ROOT / "tests" / area / (name + ".cpp")).is_file() or test == "allocation"


def batches_of(mutations):
    """Lists of mutations that can be compiled together."""
    batches, alone = [], []
    for m in mutations:
        if m.get("alone"):
            alone.append([m])
            continue
        for batch in batches:
            if all(m["file"] != o["file"] or m["end"] <= o["begin"] or o["end"] <= m["begin"] for o in batch):
                batch.append(m)
                break
        else:
            batches.append([m])
    return batches + alone


def switched(m):
    """The text of the mutation behind its switch."""
    active, find, replace = f"sparsegrad_mutation == {m['number']}", m["find"], m["replace"]
    if m.get("alone"):
        return replace
    if find.rstrip().endswith((";", "}")):
        return f"if ({active}) {{\n{replace}\n}} else {{\n{find}\n}}"
    return f"({active} ? ({replace}) : ({find}))"


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (BYTES_A_TEST, BYTES_A_TEST))


def call(command, log, cwd=TREE, test=False, mutation=0):
    """Whether the command ends with 0; its output goes to the file `log`."""
    with open(log, "a") as out:
        print("$", " ".join(map(str, command)), file=out, flush=True)
        try:
            return subprocess.run(command, cwd=cwd, stdout=out, stderr=out,
                                  timeout=SECONDS_A_TEST if test else None, preexec_fn=limit_memory if test else None,
                                  env=os.environ | {VARIABLE: str(mutation)}).returncode == 0
        except subprocess.TimeoutExpired:
            print("the time is over", file=out)
            return False


class Checkout:
    """The copy in which the code is broken, and its two build trees."""

    def __init__(self, jobs):
        self.jobs = str(jobs)
        self.log = WORK / "setup.log"
        self.program = False
        TREE.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                               check=True, stdout=subprocess.PIPE).stdout
        # All of it now: who edits the checkout while this runs does not change what is run.
        self.files = {name: (ROOT / name).read_bytes() for name in files.decode().split("\0")
                      if name and (ROOT / name).is_file()}
        switch = WORK / "switch.hpp"
        if not switch.is_file() or switch.read_text() != SWITCH:
            switch.write_text(SWITCH)
        # Compiling takes longer than running, but for the library's long loops; the program has its BLAS for those.
        flags = f"-DCMAKE_BUILD_TYPE=None '-DCMAKE_CXX_FLAGS=-DNDEBUG -include {switch} "
        self.library_flags, self.program_flags = flags + "-O1'", flags + "-O0'"

    def apply(self, batch):
        """Makes the copy that of the checkout with the batch's mutations. Equal files keep their times."""
        for name, data in self.files.items():
            source, copy = ROOT / name, TREE / name
            here = sorted((m for m in batch if m["file"] == name), key=lambda m: -m["begin"])
            if here:
                text = data.decode()
                for m in here:
                    text = text[:m["begin"]] + switched(m) + text[m["end"]:]
                data = text.encode()
            if not copy.is_file() or copy.read_bytes() != data:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(data)
                shutil.copymode(source, copy)

    def bash(self, line):
        if not call(["bash", "-c", f"set -euo pipefail; source scripts/common.sh; {line}"], self.log):
            fail(f"`{line}` failed, see {self.log}")

    def configure(self, tests):
        self.bash("configure release -DSPARSEGRAD_BUILD_BENCHMARKS=OFF -DSPARSEGRAD_BUILD_EXAMPLES=OFF " +
                  self.library_flags)
        if any(t.startswith(PROGRAM) for t in tests):
            self.bash("configure_finetune release " + self.program_flags)

    def make(self, tree, targets, log):
        return call(["cmake", "--build", tree, "-j", self.jobs, "--target", *targets, "--", "-k", "0"], log)

    def build(self, tests, log):
        """Builds the tests' programs."""
        library = ["test_" + t for t in tests if not t.startswith(PROGRAM)]
        program = ["test_" + t.removeprefix(PROGRAM) for t in tests if t.startswith(PROGRAM)]
        ok = True
        if library:
            ok = self.make("build/release", library, log)
        if ok and program:
            self.bash("install_library release")
            ok = self.make("build/finetune", program, log)
        return ok

    def passes(self, test, cases, log, mutation=0):
        of_program = test.startswith(PROGRAM)
        name = test.removeprefix(PROGRAM)
        tree = TREE / "build" / ("finetune" if of_program else "release")
        tests = tree / "tests"
        program = next(p for p in (tests / f"test_{name}", tree / f"test_{name}") if p.is_file())
        output = tests / "output" / name
        shutil.rmtree(output, ignore_errors=True)  # nothing of the run before
        output.mkdir(parents=True)
        # doctest ends with 0 when it ran nothing.
        command = [program, "--abort-after=1"] + ([f"--test-case={cases}"] if cases else [])
        ok = call(command, log, output, True, mutation)
        return ok and not re.search(r"test cases: +0 \|", log.read_text()[-2000:])


def run(mutations, jobs):
    batches = batches_of(mutations)
    checkout = Checkout(jobs)
    checkout.apply(batches[0])
    checkout.configure([t for m in mutations for t in m["tests"]])
    print(f"{len(mutations)} mutations, compiled in {len(batches)} turns", flush=True)
    survived, killed, passed = [], 0, set()
    for turn, batch in enumerate(batches):
        log, start = WORK / f"build.{turn}.log", time.monotonic()
        log.write_text("")
        checkout.apply(batch)
        if not checkout.build(sorted({t for m in batch for t in m["tests"]}), log):
            fail(f"turn {turn}, from {batch[0]['name']} on: does not compile, see {log}")
        print(f"{time.monotonic() - start:6.0f} s  compiled {len(batch)}", flush=True)
        for m in batch:
            log, start = WORK / (m["name"] + ".log"), time.monotonic()
            log.write_text("")
            killer = None
            for test in m["tests"]:
                key = (test, m.get("cases", ""))
                if key not in passed:
                    if not m.get("alone") and not checkout.passes(*key, log):
                        fail(f"{test} does not pass on the code as it is, see {log}")
                    passed.add(key)
                if not checkout.passes(*key, log, m["number"]):
                    killer = test
                    break
            if killer:
                killed += 1
            else:
                survived.append(m["name"])
            print(f"{time.monotonic() - start:6.0f} s  {'killed   ' if killer else 'SURVIVED '} {m['name']}" +
                  (f"  ({killer})" if killer else ""), flush=True)
    print(f"killed {killed} of {len(mutations)} ({100 * killed / len(mutations):.1f} %)")
    if survived:
        print("survived: " + ", ".join(survived))
    return 0 if killed >= ENOUGH * len(mutations) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="mutations whose name matches")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once")
    parser.add_argument("--check", action="store_true", help="only check that every mutation fits the code")
    arguments = parser.parse_args()
    mutations = [m for m in read_list() if re.search(arguments.only, m["name"])]
    if not mutations:
        fail(f"no mutation's name matches {arguments.only!r}")
    if arguments.check:
        print(f"{len(mutations)} mutations fit the code")
        return 0
    return run(mutations, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
