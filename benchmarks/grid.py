#!/usr/bin/env python3
"""The grid: steps of one layer over shapes, tokens, kept entries, ranks, accumulation and threads, and a page about them.

    grid.py [--quick | --full] [--program FILE] [--output FOLDER] [--resume] [--rounds 3] [--seconds 8] [--budget SECONDS]
            [--variant BACKEND:DTYPE]... [--peers yes|no|only] [--note TEXT]
    grid.py --page-only --output FOLDER      # tables and plots again, from the grid.json there

A cell is one layer's shape with all that varies. Its steps (dense, every plan of every basis, the reference's order, LoRA of as
many entries) run in turn, round after round, in one process, a dense step before every few others: a ratio is that to the dense
step just before, so that what else the machine does falls on both. Every variant, a backend with the type that tokens and
weights are stored in, has a process of its own, and its steps run in turn with the others' in every round; without --variant
float by the BLAS and by oneDNN, and bf16 by oneDNN. The rates of a large product and of a walk through memory,
measured in the same rounds, are the peaks. A plan that took over 1.5 times the fastest of its basis in its first run, which warms
up, and in a second one is not run again.

Writes FOLDER/grid.json after every cell, then grid.md and for every variant a folder with grid.md, cells.md and, where
matplotlib is installed, plots. FOLDER is by default benchmarks/results/<machine>. With torch installed, peers.md has the same computations by other programs (peers.py).
"""

import argparse
import contextlib
import datetime
import itertools
import json
import math
import os
import pathlib
import sys
import time

import grid_cells
import grid_page
import peers
from case_program import CaseProgram, checked_variants, described, write_aside

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / "build" / "release" / "benchmarks" / "benchmark_cases"

TOKENS = [128, 256, 512, 1024, 2048, 4096, 8192]
SHARES = [0.001, 0.003, 0.01, 0.03, 0.1]
RANKS = [16, 32, 64, 128, 256, 512]
MICRO_BATCHES = [1, 2, 4, 8, 16, 32]
CENTRE = {"in": 768, "out": 3072, "tokens": 2048, "share": 0.01, "rank": 64, "micro_batches": 1}
CASES_BETWEEN_DENSE = 4
# Before another process runs: threads of the one before still spin for a moment.
PAUSE = 0.02


def cells_of(size, threads):
    """{coordinates: whether all plans are measured}. `size` is quick, standard or full."""
    cells = {}

    def add(all_plans, **changes):
        changed = {**CENTRE, "threads": threads, **{k.rstrip("_"): v for k, v in changes.items()}}
        for values in itertools.product(*(v if isinstance(v, list) else [v] for v in changed.values())):
            cell = tuple(zip(changed, values))
            cells[cell] = cells.get(cell, False) or all_plans

    if size == "quick":
        add(True, tokens=[128, 512])
        add(False, tokens=[2048, 4096])
        add(False, tokens=512, share=[0.001, 0.1])
        add(False, tokens=512, rank=[16, 256])
        add(False, tokens=128, micro_batches=[4])
        return cells
    add(True, tokens=TOKENS)
    other_tokens = TOKENS if size == "full" else [128, 512, 2048]
    add(True, in_=3072, out=768, tokens=other_tokens)
    add(True, in_=1024, out=4096, tokens=other_tokens)
    add(True, rank=RANKS, tokens=[512, 2048] if size == "full" else 512)
    add(size == "full", share=SHARES)
    add(size == "full", tokens=256, micro_batches=MICRO_BATCHES)
    add(size == "full", tokens=[512, 2048], threads=sorted({1, threads}))
    add(size == "full", in_=4096, out=11008, tokens=[512, 2048])
    if size == "full":
        add(True, in_=4096, out=11008, tokens=[128, 8192])
        add(True, in_=1024, out=4096, rank=RANKS)
    return cells


class VariantRun:
    """The steps of one cell by one backend in one type."""

    def __init__(self, variant, process, all_plans):
        self.process = process
        steps = [c for c in process.cases if c["family"] not in ("part", "machine")]
        if not all_plans:
            steps = [c for c in steps if c["chosen"] or not c["plan"]]
        self.dense, self.others = steps[0], steps[1:]
        self.machine = [c for c in process.cases if c["family"] == "machine"]
        self.record = {c["name"]: {**c, **variant.options()} for c in [*steps, *self.machine]}

    def warm_up(self):
        """Runs everything once; drops what is far from its family's fastest, in a second run too."""
        time.sleep(PAUSE)
        first = {c["name"]: self.process.run(c["name"])["wall"] for c in [self.dense, *self.others, *self.machine]}
        fastest = {}
        for c in self.others:
            fastest[c["family"]] = min(first[c["name"]], fastest.get(c["family"], math.inf))
        kept = []
        for c in self.others:
            name, limit = c["name"], grid_cells.PRUNE * fastest[c["family"]]
            if c["chosen"] or first[name] <= limit or (second := self.process.run(name)["wall"]) <= limit:
                kept.append(c)
            else:
                self.process.drop(name)
                self.record[name]["second_wall"] = second
        self.others = kept
        for c in [self.dense, *self.others, *self.machine]:
            self.record[c["name"]].update({"wall": [], "cpu": [], "ratio": [], "cpu_ratio": []})
        self.before = self.process.run(self.dense["name"])

    def run(self, c):
        result = self.process.run(c["name"])
        entry = self.record[c["name"]]
        for time_of, ratio in (("wall", "ratio"), ("cpu", "cpu_ratio")):
            entry[time_of].append(result[time_of])
            entry[ratio].append(result[time_of] / self.before[time_of])
        entry.update({k: v for k, v in result.items() if k not in ("wall", "cpu")})
        return result

    def round(self):
        time.sleep(PAUSE)
        for position, c in enumerate(self.others):
            if position % CASES_BETWEEN_DENSE == 0:
                self.before = self.run(self.dense)
            self.run(c)
        for c in self.machine:
            self.run(c)


def measure_cell(program, cell, all_plans, a):
    """Runs a cell's steps in turn, all variants in every round; the head of the programs and a dict for grid.json."""
    entries = max(1, round(cell["share"] * cell["in"] * cell["out"]))
    options = {k: cell[k] for k in ("in", "out", "tokens", "micro_batches", "rank", "threads")}
    with contextlib.ExitStack() as stack:
        runs = []
        for variant in a.variants:
            process = stack.enter_context(CaseProgram(program, **options, entries=entries, **variant.options()))
            runs.append(VariantRun(variant, process, all_plans))
        for run in runs:
            run.warm_up()
        start = time.perf_counter()
        rounds = 0
        while rounds < a.rounds or (rounds < 3 * a.rounds and time.perf_counter() - start < a.seconds * len(runs)):
            for run in runs:
                run.round()
            rounds += 1
        head = runs[0].process.head
        steps = [record for run in runs for record in run.record.values()]
        return head, {"cell": cell, "entries": entries, "lora_rank": head["lora_rank"], "rounds": rounds, "steps": steps}


def shortened(value):
    """Four digits of a time are more than it is worth."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shortened(v) for v in value]
    return value


def measure(a, command):
    folder = pathlib.Path(a.output) if a.output else HERE / "results" / a.machine["slug"]
    file = folder / "grid.json"
    data = {"command": command, "date": str(datetime.date.today()), "note": a.note, "load_before": os.getloadavg()[0], "cells": []}
    data["variants"] = [v.options() for v in a.variants]
    if a.resume and file.exists():
        data = json.loads(file.read_text())
        data["command"] = command
    done = [c["cell"] for c in data["cells"]]
    cells = {} if a.peers == "only" else cells_of(a.size, a.threads)
    if cells:
        write_aside(file, json.dumps(data))  # an unwritable folder shows now
    start = time.perf_counter()
    for number, (cell, all_plans) in enumerate(cells.items(), 1):
        cell = dict(cell)
        if cell in done:
            continue
        if a.budget and time.perf_counter() - start > a.budget:
            data["left_out"] = len(cells) - len(data["cells"])
            print(f"{data['left_out']} cells are left out: --budget {a.budget:g}", file=sys.stderr)
            write_aside(file, json.dumps(data, separators=(",", ":")) + "\n")
            break
        print(f"[{time.perf_counter() - start:.0f} s] cell {number} of {len(cells)}: {cell}", file=sys.stderr, flush=True)
        head, record = measure_cell(a.program, cell, all_plans, a)
        data.update({"machine": head["machine"], "sparsegrad": head["sparsegrad"]})
        data["cells"].append(shortened(record))
        data["load_after"] = os.getloadavg()[0]
        write_aside(file, json.dumps(data, separators=(",", ":")) + "\n")
    if a.peers != "no":
        size = " --quick" if a.size == "quick" else ""
        peer_command = f"benchmarks/grid.py{size} --peers only --peer-rounds {a.peer_rounds} --threads {a.threads}"
        text = peers.measure(a, folder, peer_command)
        if text:
            print(text)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="seven small cells")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="more cells, and all plans everywhere; hours")
    parser.set_defaults(size="standard")
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="benchmark_cases; default: that of build/release")
    parser.add_argument("--output", help="folder; default: results/<machine> beside this script")
    parser.add_argument("--variant", action="append", default=[], help="cpu_blas:float, cpu_onednn:bf16, ...; repeatable")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="at least, of every cell; three times as many at most")
    parser.add_argument("--seconds", type=float, default=8, help="a cell goes on with further rounds for so long a variant")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no further cell is begun; 0: none")
    parser.add_argument("--resume", action="store_true", help="keep the cells that FOLDER/grid.json has")
    parser.add_argument("--peers", choices=["yes", "no", "only"], default="yes")
    parser.add_argument("--peer-rounds", type=int, default=7)
    parser.add_argument("--note", default="", help="for the page: what else the machine did")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    a = parser.parse_args()
    if a.threads < 1 or a.rounds < 1 or a.peer_rounds < 1:
        parser.error("--threads, --rounds and --peer-rounds must be 1 or more")
    if a.page_only:
        if not a.output:
            parser.error("--page-only needs --output")
        folder = pathlib.Path(a.output)
    else:
        about = described(a.program)
        a.machine, a.variants = about["machine"], checked_variants(a.variant, about["variants"], parser)
        size_option = [] if a.size == "standard" else [f"--{a.size}"]
        command = " ".join(["benchmarks/grid.py", *size_option, f"--rounds {a.rounds} --seconds {a.seconds:g} --threads {a.threads}", *(f"--variant {v}" for v in a.variant)])
        folder = measure(a, command)
    for path in (grid_page.write(folder) if a.peers != "only" else []) + peers.write(folder):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
