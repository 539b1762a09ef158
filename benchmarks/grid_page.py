"""Tables and plots of a grid.json: grid.md, cells.md and pictures beside it."""

import json
import pathlib
import statistics

from case_program import spread, wrapped, write_aside
from grid_cells import DENSE, KINDS, MEMORY_PARTS, PRUNE, Grid, Step, around_one, crossings, of_variant, variants_of


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


def targets(grid, variant):
    """What is wanted of the grid, for the page of the whole suite."""
    all_choices = choices(grid)
    if not all_choices:
        return []
    share = sum(c.ratio <= 1.1 for c in all_choices) / len(all_choices)
    what = f"cells whose chosen plan is within 10 % of the best measured one, of {len(all_choices)}"
    return [{"section": f"grid, {variant.title}", "what": what, "wanted": ">= 95 %", "found": f"{100 * share:.1f} %", "met": share >= 0.95}]


def processors(cell):
    """Processors that a cell's steps had on average: fewer than its threads where other programs took some."""
    steps = [s for s in cell["steps"] if "wall" in s]
    return sum(sum(s["cpu"]) for s in steps) / sum(sum(s["wall"]) for s in steps)


def had_text(data, cells):
    """How much of the machine the cells had."""
    had = [processors(c) / c["cell"]["threads"] for c in data["cells"]]
    return (
        f"a cell had {100 * min(had):.0f} to {100 * max(had):.0f} % of its threads' time, over 85 % in {sum(h > 0.85 for h in had)} of {len(had)} cells; "
        f"the clock of the others is that of a shared machine, their ratios less so ({cells} have both)"
    )


def machine_rows(data, backends, cells):
    machine = data["machine"]
    rows = [
        ("command", f"`{data['command']}`"),
        ("date", data["date"]),
        ("sparsegrad", f"{data['sparsegrad']}, {backends}"),
        ("processor", ", ".join(filter(None, [machine["processor"], machine.get("instruction_set"), f"{machine['cores']} cores"]))),
        ("memory", machine["memory"]),
        ("compiler", machine["compiler"]),
        ("BLAS", machine["blas"]),
        ("oneDNN", machine.get("onednn")),
        ("Eigen", machine["eigen"]),
        ("load average", f"{data['load_before']:.1f} before, {data['load_after']:.1f} after"),
        ("processors", had_text(data, cells)),
        ("left out", f"{data['left_out']} cells, for want of time" if data.get("left_out") else ""),
        ("other work", data["note"]),
    ]
    return ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows if v), ""]


def title_of(data):
    machine = data["machine"]
    return f"{machine['processor'].split(' (')[0]}, {machine['cores']} cores"


def head_section(grid, variant, up):
    data = grid.data
    lines = [f"# The grid on {title_of(data)}" + (f": {variant.title}" if up else ""), ""]
    lines += machine_rows(data, f"backend `{variant.backend}`, {variant.dtype}", "[the cells](cells.md)")
    rounds = [c["rounds"] for c in data["cells"]]
    stored = "float" if variant.dtype == "float" else f"tokens and weights in {variant.dtype}, masters, sums, bases, cores and moments in float"
    notes = [
        f"- A step is forward, dX, the weight's gradient, selection, optimizer and the change of the weight, with a bias; {stored}. Where nothing else is said: "
        f"2048 tokens, 1 % of the entries kept, rank 64, one micro-batch, {grid.threads} threads.",
        f"- A ratio (x dense) is that to the dense step run just before it, {min(rounds)} to {max(rounds)} rounds a cell; how far one dense step is from the "
        "one before it (second last row of the tables) says what a difference is worth.",
        "- The columns CPU time are the same ratios of the processor time of all threads, which other programs disturb less.",
        "- GFLOP/s counts the dense products of forward, dX and the core gradient, not those of the weight update; GB/s what must be read and written at "
        "least, each operand once. Both are of the best round.",
        "- Memory held: weight, gradient, optimizer, basis or factors, what forward keeps for backward, scratch; not Y, dY and dX, which all steps have. A "
        "sparse step's moments have room for four times the entries kept; supports that change more than that make them dense "
        f"([SST-2]({up}../../../docs/results/sst2.md)).",
        "- Both sides of rank r keep at most r x r entries. LoRA has the rank whose factors have as many entries as the others keep.",
        f"- All figures: [cells.md](cells.md). Raw samples: [grid.json]({up}grid.json)." + (f" Other programs: [peers.md]({up}peers.md)." if grid.has_peers else ""),
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


def dense_section(data, grids):
    """Times of the dense step by tokens, a row for each variant, and over the first variant's of the same rounds."""
    lines = []
    first = next(iter(grids))
    for shape in grids[first].shapes():
        curves = {v: {s.cell["tokens"]: s for s in g.curve(DENSE, "tokens", g.where(shape))} for v, g in grids.items()}
        tokens = sorted(curves[first])
        rows = []
        for v, curve in curves.items():
            rows.append([v.title, "ms"] + [f"{1e3 * curve[t].seconds:.1f}" if t in curve else "" for t in tokens])
            if v != first:
                rows.append([v.title, f"time over {first.title}"] + [spread(over(curve[t], curves[first][t])) if t in curve else "" for t in tokens])
        if tokens:
            lines += [f"### {shape_text(shape)}", ""] + table(["dense step", "tokens a step:", *map(str, tokens)], rows, 2)
    return ["## The dense step", ""] + lines if lines else []


def over(step, other):
    """Ratios of the rounds that both were measured in."""
    return [x / y for x, y in zip(step.of_rounds(), other.of_rounds())]


def steps_section(data, grids):
    """All steps at the centre of the grid, side by side."""
    first = next(iter(grids))
    lines = []
    for shape in grids[first].shapes():
        for tokens in (512, 2048, 4096):
            found = {v: {s.kind: s for kind in KINDS for s in g.taken(kind, **g.where(shape, tokens=tokens))} for v, g in grids.items()}
            rows = []
            for kind in KINDS:
                if not any(kind in steps for steps in found.values()):
                    continue
                row = [kind]
                for v, steps in found.items():
                    row.append(f"{1e3 * steps[kind].seconds:.1f}" if kind in steps else "")
                    row.append(steps[kind].ratio_text() if kind in steps else "")
                rows.append(row)
            if rows:
                head = ["step"] + [text for v in grids for text in (f"{v.title}: ms", "x dense")]
                lines += [f"### {shape_text(shape)}, {tokens} tokens", ""] + table(head, rows)
    return ["## Steps side by side", "", *wrapped("x dense: the time over that of the dense step of the same variant, median (min-max)."), "", *lines] if lines else []


def overview(data, grids):
    """The page of a grid with several variants."""
    lines = [f"# The grid on {title_of(data)}", "", *machine_rows(data, "; ".join(v.title for v in grids), "the variants' cells")]
    lines += wrapped(
        "A variant is a type that tokens and weights are stored in and the library that multiplies. All variants ran in turn in every round, each in a "
        "process of its own. What is measured, and how, the variants' own pages say."
    )
    lines += [""]
    rows = []
    for v, g in grids.items():
        flops, traffic = g.peaks[g.threads]
        all_choices = choices(g)
        good = sum(c.ratio <= 1.1 for c in all_choices)
        chosen = f"{good} of {len(all_choices)}" if all_choices else ""
        rows.append([f"[{v.title}]({v.slug}/grid.md)", f"[cells]({v.slug}/cells.md)", f"{1e-9 * flops:.0f}", f"{1e-9 * traffic:.1f}", chosen])
    head = ["variant", "all cells", "GFLOP/s of a product of 2048 x 2048", "GB/s", "plans within 10 % of the best"]
    lines += table(head, rows, 2) + dense_section(data, grids) + steps_section(data, grids)
    return "\n".join(lines)


def page(grid, pictures, variant, up=""):
    lines = head_section(grid, variant, up)
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
        for s in (Step(c, record) for record in c["steps"]):
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
    grids = {v: Grid(of_variant(data, v), (file.parent / "peers.json").exists()) for v in variants_of(data)}
    several = len(grids) > 1
    found, written = [], []
    for v, grid in grids.items():
        at = file.parent / v.slug if several else file.parent
        at.mkdir(exist_ok=True)
        try:
            import grid_plots
        except ImportError as missing:
            print(f"the plots are left out: {missing}")
            pictures = []
        else:
            pictures = grid_plots.draw(grid, at, v)
        found += targets(grid, v)
        pages = {"grid.md": page(grid, pictures, v, "../" if several else ""), "cells.md": cells_page(grid)}
        for name, text in pages.items():
            write_aside(at / name, text)
        written += [str(at / name) for name in [*pages, *pictures]]
    if several:
        write_aside(file.parent / "grid.md", overview(data, grids))
        written.append(str(file.parent / "grid.md"))
    write_aside(file.parent / "grid_targets.json", json.dumps({"targets": found}) + "\n")
    return written
