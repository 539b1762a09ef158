"""Tables and plots of a grid.json: grid.md, cells.md and pictures beside it."""

import json
import pathlib
import statistics

from case_program import wrapped, write_aside
from grid_cells import DENSE, KINDS, MEMORY_PARTS, PRUNE, Grid, Step, around_one, crossings


def crossing_text(curve, variable):
    """crossings in words; empty for a single point."""
    if len(curve) < 2:
        return ""
    span = f"at all of {curve[0].cell[variable]} to {curve[-1].cell[variable]}"
    if around_one(curve):
        return f"within 10 % of 1 {span}"
    found = crossings(curve, variable)
    if not found:
        return f"{'below' if curve[0].ratio < 1 else 'above'} {span}"
    return ", ".join(f"{'below' if below else 'above'} from {at:.0f}" for at, below in found)


def table(head, rows, numbers_from=1):
    alignment = ["---"] * numbers_from + ["--:"] * (len(head) - numbers_from)
    return ["| " + " | ".join(map(str, line)) + " |" for line in [head]] + [
        "|" + "|".join(alignment) + "|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
        "",
    ]


def curve_table(grid, variable, where, values_text=str, kinds=KINDS[1:]):
    """Ratios of all kinds along one variable; no table where there is no curve."""
    curves = {kind: {s.cell[variable]: s for s in grid.curve(kind, variable, where)} for kind in [DENSE, *kinds]}
    values = sorted({v for curve in curves.values() for v in curve})
    if len(values) < 2:
        return []
    head = [f"x dense: median (min-max); {variable.replace('_', '-')}:"] + [values_text(v) for v in values]
    rows = []
    for kind, curve in curves.items():
        if curve and kind != DENSE:
            rows.append([kind] + [curve[v].ratio_text() if v in curve else "" for v in values])
    dense = curves[DENSE]
    rows.append(["dense, one run over the one before"] + [dense[v].ratio_text() if v in dense else "" for v in values])
    rows.append(["dense, ms"] + [f"{1e3 * dense[v].seconds:.1f}" if v in dense else "" for v in values])
    return table(head, rows)


def measure_row(grid, step):
    flops_peak, bytes_peak = grid.peaks[step.cell["threads"]]
    rate, traffic = step.flops / step.best, step.bytes / step.best
    return [
        f"{1e3 * step.seconds:.1f}",
        step.ratio_text(),
        f"{step.cpu_ratio:.2f}",
        f"{1e-9 * rate:.0f}",
        f"{100 * rate / flops_peak:.0f} %",
        f"{1e-9 * traffic:.1f}",
        f"{100 * traffic / bytes_peak:.0f} %",
        f"{sum(step.memory.values()) / 2**20:.1f}",
    ]


MEASURES = ["ms", "x dense: median (min-max)", "CPU time", "GFLOP/s", "of peak", "GB/s", "of peak", "MiB held"]


def shape_text(shape):
    return f"{shape[0]} -> {shape[1]}"


class Choice:
    """The chosen plan of a basis in a cell beside the best measured one."""

    def __init__(self, steps):
        measured = [s for s in steps if not s.pruned]
        self.chosen = next(s for s in measured if s.chosen)
        self.best = min(measured, key=lambda s: s.seconds)
        self.rivals = len(measured) > 1
        # Of the same rounds; with one plan left both are the same and the ratio is 1.
        pairs = [x / y for x, y in zip(self.chosen.record["wall"], self.best.record["wall"])]
        self.ratio, self.least, self.most = statistics.median(pairs), min(pairs), max(pairs)
        self.by_cpu = statistics.median(self.chosen.record["cpu"]) / min(statistics.median(s.record["cpu"]) for s in measured)


def choices(grid):
    groups = {}
    for s in grid.steps:
        if s.plan:
            groups.setdefault((tuple(s.cell.items()), s.kind), []).append(s)
    return [Choice(steps) for steps in groups.values() if len(steps) > 1]


def choice_section(grid):
    all_choices = choices(grid)
    if not all_choices:
        return []
    good = [c for c in all_choices if c.ratio <= 1.1]
    misses = sorted((c for c in all_choices if c.ratio > 1.1), key=lambda c: -c.ratio)
    share = len(good) / len(all_choices)
    lines = [
        "## The chosen plan against the best measured one",
        "",
        *wrapped(
            f"{len(all_choices)} times a basis had several plans (a basis in a cell counts once). The cost model's choice, with its default weights, takes at "
            f"most 1.10 times the whole step of the best one in {len(good)} of them, {100 * share:.1f} %; wanted: 95 %, "
            f"{'met' if share >= 0.95 else '**missed**'}. The ratio is the median of the rounds' ratios. "
            f"In {sum(c.rivals for c in all_choices)} of them another plan was within {PRUNE} times the fastest and measured to the end. "
            f"Largest: {max(c.ratio for c in all_choices):.2f}. "
            f"By processor time in place of the clock: {sum(c.by_cpu <= 1.1 for c in all_choices)} of {len(all_choices)}."
        ),
        "",
    ]
    if misses:
        rows = [
            [
                shape_text((c.chosen.cell["in"], c.chosen.cell["out"])),
                c.chosen.cell["tokens"],
                c.chosen.cell["rank"],
                c.chosen.cell["micro_batches"],
                c.chosen.cell["threads"],
                c.chosen.kind,
                c.chosen.plan,
                c.best.plan,
                f"{c.ratio:.2f} ({c.least:.2f}-{c.most:.2f})",
                f"{c.by_cpu:.2f}",
            ]
            for c in misses
        ]
        head = ["layer", "tokens", "rank", "micro-batches", "threads", "basis", "chosen", "best", "chosen / best: median (min-max)", "CPU time"]
        lines += ["The misses:", ""] + table(head, rows, 8)
    return lines


def targets(grid):
    """What is wanted of the grid, for the page of the whole suite."""
    all_choices = choices(grid)
    if not all_choices:
        return []
    share = sum(c.ratio <= 1.1 for c in all_choices) / len(all_choices)
    what = f"cells whose chosen plan is within 10 % of the best measured one, of {len(all_choices)}"
    return [{"section": "grid", "what": what, "wanted": ">= 95 %", "found": f"{100 * share:.1f} %", "met": share >= 0.95}]


def processors(cell):
    """Processors that a cell's steps had on average: fewer than its threads where other programs took some."""
    steps = [s for s in cell["steps"] if "wall" in s]
    return sum(sum(s["cpu"]) for s in steps) / sum(sum(s["wall"]) for s in steps)


def had_text(data):
    """How much of the machine the cells had."""
    had = [processors(c) / c["cell"]["threads"] for c in data["cells"]]
    return (
        f"a cell had {100 * min(had):.0f} to {100 * max(had):.0f} % of its threads' time, over 85 % in {sum(h > 0.85 for h in had)} of {len(had)} cells; "
        "the clock of the others is that of a shared machine, their ratios less so ([cells.md](cells.md) has both)"
    )


def head_section(grid):
    data = grid.data
    machine = data["machine"]
    rows = [
        ("command", f"`{data['command']}`"),
        ("date", data["date"]),
        ("sparsegrad", f"{data['sparsegrad']}, backend `{data['backend']}`"),
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("memory", machine["memory"]),
        ("compiler", machine["compiler"]),
        ("BLAS", machine["blas"]),
        ("Eigen", machine["eigen"]),
        ("load average", f"{data['load_before']:.1f} before, {data['load_after']:.1f} after"),
        ("processors", had_text(data)),
    ]
    if data["note"]:
        rows.append(("other work", data["note"]))
    lines = [f"# The grid on {machine['processor'].split(' (')[0]}, {machine['cores']} cores", ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows), ""]
    rounds = [c["rounds"] for c in data["cells"]]
    notes = [
        "- A step is forward, dX, the weight's gradient, selection, optimizer and the change of the weight, with a bias; float. Where nothing else is said: "
        f"2048 tokens, 1 % of the entries kept, rank 64, one micro-batch, {grid.threads} threads.",
        f"- A ratio (x dense) is that to the dense step run just before it, {min(rounds)} to {max(rounds)} rounds a cell; how far one dense step is from the "
        "one before it (second last row of the tables) says what a difference is worth.",
        "- The columns CPU time are the same ratios of the processor time of all threads, which other programs disturb less.",
        "- GFLOP/s counts the dense products of forward, dX and the core gradient, not those of the weight update; GB/s what must be read and written at "
        "least, each operand once. Both are of the best round.",
        "- Memory held: weight, gradient, optimizer, basis or factors, what forward keeps for backward, scratch; not Y, dY and dX, which all steps have. A "
        "sparse step's moments have room for four times the entries kept; supports that change more than that make them dense "
        "([SST-2](../../../docs/results/sst2.md)).",
        "- Both sides of rank r keep at most r x r entries. LoRA has the rank whose factors have as many entries as the others keep.",
        "- All figures: [cells.md](cells.md). Raw samples: [grid.json](grid.json)." + (" Other programs: [peers.md](peers.md)." if grid.has_peers else ""),
    ]
    lines += [line for note in notes for line in wrapped(note)] + [""]
    peaks = [[threads, f"{1e-9 * flops:.0f}", f"{1e-9 * traffic:.1f}"] for threads, (flops, traffic) in grid.peaks.items()]
    lines += wrapped("Peaks, the best of a product of 2048 x 2048 matrices and of y += a x on 64 MiB each, in the same rounds:") + [""]
    return lines + table(["threads", "GFLOP/s", "GB/s"], peaks, 0)


def crossover_section(grid):
    rows = []
    for shape in grid.shapes():
        for kind in KINDS[1:]:
            text = crossing_text(grid.curve(kind, "tokens", grid.where(shape)), "tokens")
            if text:
                rows.append([shape_text(shape), kind, text])
    for shape in grid.shapes():
        for tokens in sorted({s.cell["tokens"] for s in grid.steps}):
            for kind in KINDS:
                curve = grid.curve(kind, "rank", grid.where(shape, tokens=tokens))
                if " r," in kind and len(curve) > 2:
                    rows.append([f"{shape_text(shape)}, {tokens} tokens", kind + ", by rank", crossing_text(curve, "rank")])
    if not rows:
        return []
    lines = ["## Crossovers: where a step is cheaper than the dense one", ""]
    lines += wrapped("By tokens a step, or by rank where the row says so; between two measured points on a logarithmic scale.") + [""]
    return lines + table(["layer", "step", "x dense is"], rows, 3)


def picture(name, pictures, text):
    return [f"![{text}]({name})", ""] if name in pictures else []


def page(grid, pictures):
    lines = head_section(grid)
    lines += ["## Tokens a step", ""]
    lines += picture("tokens.png", pictures, "ratio to the dense step against tokens")
    for shape in grid.shapes():
        rows = curve_table(grid, "tokens", grid.where(shape))
        if rows:
            lines += [f"### {shape_text(shape)}", ""] + rows
    lines += crossover_section(grid)
    sections = [
        ("rank", "Rank", "ratio to the dense step against the rank", [k for k in KINDS if " r," in k], str),
        ("share", "Entries kept", "ratio to the dense step against the share of the entries that is kept", KINDS[1:], lambda v: f"{100 * v:g} %"),
        ("micro_batches", "Micro-batches a step", "ratio to the dense step against micro-batches a step", KINDS[1:], str),
        ("threads", "Threads", "", KINDS[1:], str),
    ]
    for variable, title, text, kinds, value_text in sections:
        section = []
        for shape in grid.shapes():
            for tokens in sorted({s.cell["tokens"] for s in grid.steps}):
                where = grid.where(shape, tokens=tokens)
                rows = curve_table(grid, variable, where, value_text, kinds)
                if rows:
                    unit = "tokens a micro-batch" if variable == "micro_batches" else "tokens"
                    section += [f"### {shape_text(shape)}, {tokens} {unit}", ""] + rows
        if section:
            lines += [f"## {title}", ""] + picture(f"{variable}.png", pictures, text) + section
    lines += choice_section(grid)
    for shape in grid.shapes():
        steps = [s for kind in KINDS for s in grid.taken(kind, **grid.where(shape))]
        if steps:
            lines += [f"## {shape_text(shape)}, 2048 tokens: rates and memory", ""]
            cell = next(c for c in grid.data["cells"] if c["cell"] == steps[0].cell)
            lines += [f"This cell had {processors(cell):.2f} of {grid.threads} processors, which its rates suffer from where it is less than all.", ""]
            if shape == grid.shapes()[0]:
                lines += picture("roofline.png", pictures, "roofline") + picture("memory.png", pictures, "memory held, by part")
            lines += table(["step", *MEASURES], [[s.kind, *measure_row(grid, s)] for s in steps])
            lines += table(
                ["MiB held", *(part.replace("_", " ") for part in MEMORY_PARTS)],
                [[s.kind, *(f"{s.memory.get(part, 0) / 2**20:.2f}" for part in MEMORY_PARTS)] for s in steps],
            )
    return "\n".join(lines)


def cells_page(grid):
    lines = ["# All cells of the grid", "", "What the columns say: [grid.md](grid.md). A plan in **bold** is the cost model's choice.", ""]
    for c in grid.data["cells"]:
        cell = c["cell"]
        lines += [
            f"## {cell['in']} -> {cell['out']}, tokens {cell['tokens']}, kept {100 * cell['share']:g} % ({c['entries']}), rank {cell['rank']}, "
            f"micro-batches {cell['micro_batches']}, threads {cell['threads']}",
            "",
            f"LoRA of rank {c['lora_rank']}; {c['rounds']} rounds; {processors(c):.2f} processors.",
            "",
        ]
        rows = []
        for s in (Step(cell, record) for record in c["steps"]):
            if s.record["family"] == "machine":
                continue
            plan = f"**{s.plan}**" if s.chosen else s.plan
            if s.pruned:
                rows.append([s.kind, plan, f"{1e3 * s.record['second_wall']:.1f}, not run further", *[""] * (len(MEASURES) - 1)])
            else:
                rows.append([s.kind, plan, *measure_row(grid, s)])
        lines += table(["step", "plan", *MEASURES], rows, 2)
    return "\n".join(lines)


def write(folder):
    """Writes the pages of folder/grid.json; gives the paths."""
    file = pathlib.Path(folder) / "grid.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"cannot read {file}: {error.strerror}")
    if not data["cells"]:
        return []
    grid = Grid(data, (file.parent / "peers.json").exists())
    try:
        import grid_plots
    except ImportError as missing:
        print(f"the plots are left out: {missing}")
        pictures = []
    else:
        pictures = grid_plots.draw(grid, pathlib.Path(folder))
    pages = {"grid.md": page(grid, pictures), "cells.md": cells_page(grid)}
    write_aside(pathlib.Path(folder) / "grid_targets.json", json.dumps({"targets": targets(grid)}) + "\n")
    for name, text in pages.items():
        write_aside(pathlib.Path(folder) / name, text)
    return [str(pathlib.Path(folder) / name) for name in [*pages, *pictures]]
