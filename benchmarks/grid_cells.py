"""The cells of a grid.json and their steps: names, ratios, curves and crossings."""

import statistics

from case_program import Variant

DENSE = "dense, AdamW"
REFERENCE = "in the basis (the paper's order)"
LORA = "LoRA of equal entries"
# Truncated families by their kind: r stands for the rank.
KINDS = [
    DENSE,
    "both sides full",
    "width side full",
    "width side r, top-k",
    "width side r, all entries",
    "both sides r, top-k",
    "both sides fast transforms",
    "no rotation",
    REFERENCE,
    LORA,
]
# A plan that takes more than this times the fastest of its basis is not measured to the end.
PRUNE = 1.5
MEMORY_PARTS = ["weight", "gradient", "optimizer", "basis", "saved_input", "scratch"]


class Step:
    """One step of one cell, under one plan."""

    def __init__(self, cell_record, record):
        cell = cell_record["cell"]
        self.cell, self.record = cell, record
        self.kind = record["family"].replace(f" {cell['rank']},", " r,")
        self.plan, self.chosen = record["plan"], record["chosen"]
        self.rounds = cell_record["rounds"]
        self.pruned = "wall" not in record
        if not self.pruned:
            self.seconds, self.best = statistics.median(record["wall"]), min(record["wall"])
            ratios = record["ratio"]
            self.ratio, self.least, self.most = statistics.median(ratios), min(ratios), max(ratios)
            self.cpu_ratio = statistics.median(record["cpu_ratio"])
            self.flops, self.bytes = record["flops"], record["bytes"]
            self.memory = record.get("memory", {})

    def ratio_text(self):
        return f"{self.ratio:.2f} ({self.least:.2f}-{self.most:.2f})"

    def of_rounds(self):
        """Seconds of each round; of a step that a round runs several times their median."""
        each = len(self.record["wall"]) // self.rounds
        return [statistics.median(self.record["wall"][i * each : (i + 1) * each]) for i in range(self.rounds)]


def variants_of(data):
    """Grids of before had one backend, in float."""
    return [Variant(v["backend"], v["dtype"]) for v in data.get("variants", [{"backend": data.get("backend", "cpu_blas"), "dtype": "float"}])]


def of_variant(data, variant):
    """The same grid with the steps of one variant alone."""

    def same(step):
        return (step.get("backend", variant.backend), step.get("dtype", variant.dtype)) == (variant.backend, variant.dtype)

    return {**data, "backend": variant.backend, "cells": [{**c, "steps": [s for s in c["steps"] if same(s)]} for c in data["cells"]]}


class Grid:
    def __init__(self, data, has_peers=False):
        self.data, self.has_peers = data, has_peers
        self.steps = [Step(c, record) for c in data["cells"] for record in c["steps"]]
        self.threads = max((s.cell["threads"] for s in self.steps), default=1)
        self.peaks = {}  # threads: (flops a second, bytes a second)
        for threads in sorted({s.cell["threads"] for s in self.steps}):
            machine = [s for s in self.steps if s.kind == "machine" and s.cell["threads"] == threads]
            self.peaks[threads] = (max(s.flops / s.best for s in machine), max(s.bytes / s.best for s in machine))

    def taken(self, kind, **where):
        """Steps of a kind as they would be taken: under the chosen plan, in the cells that agree with `where`."""
        return [
            s
            for s in self.steps
            if s.kind == kind and not s.pruned and (s.chosen or not s.plan) and all(s.cell[k] == v for k, v in where.items())
        ]

    def curve(self, kind, variable, where):
        """Steps along one variable, the others as in `where`."""
        fixed = {k: v for k, v in where.items() if k != variable}
        return sorted(self.taken(kind, **fixed), key=lambda s: s.cell[variable])

    def shapes(self):
        return list(dict.fromkeys((s.cell["in"], s.cell["out"]) for s in self.steps))

    def where(self, shape, **changes):
        """The coordinates that curves of a shape share."""
        fixed = {"in": shape[0], "out": shape[1], "tokens": 2048, "share": 0.01, "rank": 64, "micro_batches": 1, "threads": self.threads}
        return {**fixed, **changes}


def around_one(curve):
    """Whether the ratios stay within what repeated runs of one step differ by."""
    return all(abs(s.ratio - 1) <= 0.1 for s in curve)


def crossings(curve, variable):
    """Where the ratio to the dense step passes 1: (value of the variable, whether it is below from there)."""
    if around_one(curve):
        return []
    found = []
    for left, right in zip(curve, curve[1:]):
        if (left.ratio < 1) != (right.ratio < 1):
            part = (1 - left.ratio) / (right.ratio - left.ratio)
            found.append((left.cell[variable] * (right.cell[variable] / left.cell[variable]) ** part, right.ratio < 1))
    return found
