#!/usr/bin/env python3
"""Mutation test: breaks the code in one place, builds the tests that cover it and sees whether one of them fails.

  tests/mutation/run.py [--only REGEX] [--jobs N]                          run the list, print the score
  tests/mutation/run.py --check                                             only check that the list fits the code

The list is mutations.toml. A mutation is `file`, a text `find` that stands there exactly once, the text `replace` that
takes its place, and `tests`: names of ctest's library tests, or "program:NAME" for tests of examples/finetune.
The work happens in a copy of the checkout below build/mutation; the checkout itself is never changed.
Exit status 0 if at least 95 % were killed, 1 if fewer, 2 if the list does not fit the code or the code does not build.
"""

import argparse
import pathlib
import re
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


def fail(text):
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2)


def read_list():
    with open(HERE / "mutations.toml", "rb") as file:
        mutations = tomllib.load(file)["mutation"]
    names = set()
    for m in mutations:
        name = m.get("name", "(without a name)")
        for key in ("name", "file", "find", "replace", "tests"):
            if key not in m:
                fail(f'mutation "{name}" has no {key}')
        if name in names:
            fail(f'two mutations are called "{name}"')
        names.add(name)
        path = ROOT / m["file"]
        if not path.is_file():
            fail(f'mutation "{name}": {m["file"]} does not exist')
        count = path.read_text().count(m["find"])
        if count != 1:
            fail(f'mutation "{name}": its text stands {count} times in {m["file"]}, expected once')
        if m["find"] == m["replace"] or not m["tests"]:
            fail(f'mutation "{name}" changes nothing or names no test')
    return mutations


def call(command, log, cwd=TREE, timeout=None):
    """Whether the command ends with 0; its output goes to the file `log`."""
    with open(log, "a") as out:
        print("$", " ".join(map(str, command)), file=out, flush=True)
        try:
            return subprocess.run(command, cwd=cwd, stdout=out, stderr=out, timeout=timeout).returncode == 0
        except subprocess.TimeoutExpired:
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
        for name in filter(None, files.decode().split("\0")):
            source, copy = ROOT / name, TREE / name
            # Equal files keep their times, so that a second run rebuilds little.
            if source.is_file() and not (copy.is_file() and copy.read_bytes() == source.read_bytes()):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, copy)
        self.bash("configure release -DSPARSEGRAD_BUILD_BENCHMARKS=OFF -DSPARSEGRAD_BUILD_EXAMPLES=OFF")

    def bash(self, line, log=None):
        if not call(["bash", "-c", f"set -euo pipefail; source scripts/common.sh; {line}"], log or self.log):
            fail(f"`{line}` failed, see {log or self.log}")

    def need_program(self):
        if not self.program:
            self.bash("configure_finetune release")
            self.program = True

    def build(self, tests, log):
        """Builds the tests' programs, and for the program's tests the program itself."""
        library = [t for t in tests if not t.startswith(PROGRAM)]
        program = [t.removeprefix(PROGRAM) for t in tests if t.startswith(PROGRAM)]
        ok = True
        if library:
            targets = ["test_" + t for t in library]
            ok = call(["cmake", "--build", "build/release", "-j", self.jobs, "--target", *targets], log)
        if ok and program:
            self.need_program()
            self.bash("install_library release", log)
            targets = ["test_" + t for t in program]
            ok = call(["cmake", "--build", "build/finetune", "-j", self.jobs, "--target", *targets, "sparsegrad-glue"],
                      log)
        return ok

    def passes(self, tests, log):
        for tree, names in (("build/release", [t for t in tests if not t.startswith(PROGRAM)]),
                            ("build/finetune", [t.removeprefix(PROGRAM) for t in tests if t.startswith(PROGRAM)])):
            if not names:
                continue
            pattern = "^(" + "|".join(map(re.escape, names)) + ")$"
            if not call(["ctest", "--test-dir", tree, "-R", pattern, "--no-tests=error", "--stop-on-failure",
                         "--timeout", str(SECONDS_A_TEST)], log):
                return False
        return True


def run(mutations, jobs):
    checkout = Checkout(jobs)
    tests = sorted({t for m in mutations for t in m["tests"]})
    print(f"{len(mutations)} mutations, {len(tests)} tests; the tests must pass on the code as it is", flush=True)
    log = WORK / "unbroken.log"
    log.write_text("")
    if not checkout.build(tests, log) or not checkout.passes(tests, log):
        fail(f"the code as it is does not pass, see {log}")
    survived, invalid, killed = [], [], 0
    for m in mutations:
        path, log, start = TREE / m["file"], WORK / (m["name"] + ".log"), time.monotonic()
        log.write_text("")
        text = path.read_text()
        path.write_text(text.replace(m["find"], m["replace"]))
        try:
            if not checkout.build(m["tests"], log):
                invalid.append(m["name"])
                verdict = "DOES NOT COMPILE"
            elif checkout.passes(m["tests"], log):
                survived.append(m["name"])
                verdict = "SURVIVED"
            else:
                killed += 1
                verdict = "killed"
        finally:
            path.write_text(text)
        print(f"{verdict:17}{time.monotonic() - start:6.0f} s  {m['name']}", flush=True)
    valid = killed + len(survived)
    print(f"killed {killed} of {valid} ({100 * killed / max(valid, 1):.1f} %)")
    if survived:
        print("survived: " + ", ".join(survived))
    if invalid:
        fail("do not compile: " + ", ".join(invalid))
    return 0 if valid and killed >= ENOUGH * valid else 1


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
