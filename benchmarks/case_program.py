"""benchmark_cases as a process that runs one case at a time when asked, and what the suite's scripts share."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import textwrap


class Variant:
    """A backend and the type that tokens and weights are stored in."""

    BACKENDS = {"cpu_blas": "BLAS", "cpu_onednn": "oneDNN", "cpu": "Eigen"}

    def __init__(self, backend, dtype):
        self.backend, self.dtype = backend, dtype
        self.title = f"{dtype}, {self.BACKENDS.get(backend, backend)}"
        self.slug = f"{dtype}-{backend}"

    @classmethod
    def parse(cls, text):
        backend, _, dtype = text.partition(":")
        return cls(backend, dtype or "float")

    def options(self):
        return {"backend": self.backend, "dtype": self.dtype}

    def __eq__(self, other):
        return self.slug == other.slug

    def __hash__(self):
        return hash(self.slug)


def processor(cpuinfo=None):
    """The processor with family and model, as a hypervisor may hide its name. `cpuinfo`: what /proc/cpuinfo holds."""
    text = pathlib.Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    parts = [f"{name} {found[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in found]
    return found.get("model name", "unknown processor") + (f" ({', '.join(parts)})" if parts else "")


def described(program):
    """The machine, and the variants that benchmark_cases was built for."""
    try:
        done = subprocess.run([str(program), "--variants"], capture_output=True, text=True, check=True)
    except OSError as error:
        raise SystemExit(f"cannot run {program}: {error.strerror}; build it: cmake --build --preset release --target benchmark_cases")
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{program} --variants: {error.stderr.strip()}")
    data = json.loads(done.stdout)
    data["variants"] = [Variant(v["backend"], v["dtype"]) for v in data["variants"]]
    return data


def usual_variants(built):
    """Float by the BLAS and by oneDNN, and bf16 by oneDNN, as far as they were built; without oneDNN bf16 by the BLAS."""
    wanted = [Variant("cpu_blas", "float"), Variant("cpu_onednn", "float"), Variant("cpu_onednn", "bf16")]
    usual = [v for v in wanted if v in built]
    return usual if any(v.dtype == "bf16" for v in usual) else [v for v in [*usual, Variant("cpu_blas", "bf16")] if v in built]


def checked_variants(texts, built, parser):
    """Those of a command line; without any the usual ones."""
    variants = [Variant.parse(text) for text in texts] or usual_variants(built)
    for v in variants:
        if v not in built:
            parser.error(f"--variant {v.backend}:{v.dtype}: the program was built for {', '.join(f'{b.backend}:{b.dtype}' for b in built)}")
    return variants


class CaseProgram:
    """The cases of one layer: `cases` lists them, run(name) gives the times and sizes of one run as a dict."""

    def __init__(self, program, **options):
        command = [str(program)]
        for key, value in options.items():
            command += ["--" + key.replace("_", "-"), str(value)]
        self.command = " ".join(command)
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise SystemExit(f"cannot run {program}: {error.strerror}; build it: cmake --build --preset release --target benchmark_cases")
        self.head = self._answer()
        self.cases = self.head["cases"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.command} ended with status {self.process.wait()}")
        return json.loads(line)

    def _ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer's absence says it
        return self._answer()

    def run(self, name):
        return self._ask("run " + name)

    def drop(self, name):
        self._ask("drop " + name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def write_aside(path, text):
    """Writes beside the file and renames: a reader finds the old file or the new one."""
    path = pathlib.Path(path)
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise SystemExit(f"cannot write {path}: {error.strerror}")


def without_folders(text):
    """Messages for a page: a file's name says enough, its folder is this machine's alone."""
    return re.sub(r"(?<![\w.])(?:~|/)[\w.+@-]*/(?:[\w.+@-]+/)*", "", text)


def wrapped(text):
    """Lines of a paragraph, or of an item of a list, at the width that tests/build/check_markdown.py asks for."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def spread(values, digits=2):
    """Median (least-most); a single value alone."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def verdict(met, why=""):
    """met: True, False, or None where nothing can be said."""
    if met is None:
        return f"not measured: {why}"
    return "met" if met else "**missed**"


def table(titles, rows):
    right = "|".join(["---"] + ["--:"] * (len(titles) - 1))
    return ["| " + " | ".join(titles) + " |", f"|{right}|"] + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def judged(ratio, wanted):
    if wanted is None:
        return ["", ""]
    return [f"<= {wanted:.2f}", "met" if ratio <= wanted else "**missed**"]


def ratio_rows(pairs, columns, ratios):
    """[first / second, the spread of each column]; ratios(first, second, column) are those of the rounds that have both."""
    for first, second in pairs:
        found = [ratios(first, second, column) for column in columns]
        if any(found):
            yield [f"{first} / {second}", *(spread(r) if r else "" for r in found)]


def paired_ratios(times, pairs):
    """(what, ratios of the rounds, what is wanted of their median) of the pairs (first, second, wanted) that were measured"""
    for first, second, wanted in pairs:
        if first in times and second in times:
            yield f"{first} / {second}", [x / y for x, y in zip(times[first], times[second])], wanted


def ratio_table(times, pairs):
    rows = []
    for what, ratios, wanted in paired_ratios(times, pairs):
        middle = statistics.median(ratios)
        rows.append([what, f"{middle:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}", *judged(middle, wanted)])
    return table(["time of / time of", "median", "min", "max", "wanted", ""], rows)
