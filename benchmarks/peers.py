"""The same computations by other programs: torch, peft, TensorLy. Each package is optional; what is missing is said.

Ours (benchmark_cases, every variant of backend and type) and theirs (in float, and where they have it with bf16 autocast) run in
turn, each round ours and then theirs, with as many threads, on numbers of the same kind and size. grid.py calls this. A whole BERT against transformers is bert_step.py.
"""

import contextlib
import copy
import datetime
import json
import os
import pathlib
import statistics
import time

from case_program import CaseProgram, Variant, spread, table, without_folders, wrapped, write_aside
from reference_layer import reference_layer

RATE = 1e-5
# Before each run: threads of the other side's OpenMP still spin for a moment.
PAUSE = 0.02


class Row:
    """One computation. `ours`: the cases of benchmark_cases whose times add up to it, as (a test of a case, times); a variant that
    lacks one of them is left out. `theirs`: {type: callable}."""

    def __init__(self, title, ours, theirs, note=""):
        self.title, self.ours, self.theirs, self.note = title, ours, dict(theirs), note
        self.forget()

    def forget(self):
        self.ours_seconds, self.ours_cpu, self.theirs_seconds = {}, {}, {}

    def round(self, processes, missing):
        for variant, process in processes.items():
            if variant.dtype not in self.theirs:
                continue
            names = [(next((c["name"] for c in process.cases if is_it(c)), None), times) for is_it, times in self.ours]
            if any(name is None for name, _ in names):
                continue
            time.sleep(PAUSE)
            runs = [(process.run(name), times) for name, times in names]
            for seconds, of in ((self.ours_seconds, "wall"), (self.ours_cpu, "cpu")):
                seconds.setdefault(variant.slug, []).append(sum(times * run[of] for run, times in runs))
        for dtype, run in list(self.theirs.items()):
            time.sleep(PAUSE)
            start = time.perf_counter()
            try:
                run()
            except Exception as error:  # another program's: its row is left out, the others go on
                text = str(error).splitlines()
                missing.append(f"{self.title}, {dtype}: failed, {type(error).__name__}: {without_folders(text[0])[:200] if text else ''}")
                del self.theirs[dtype]
                self.theirs_seconds.pop(dtype, None)
            else:
                self.theirs_seconds.setdefault(dtype, []).append(time.perf_counter() - start)

    def record(self):
        return {"title": self.title, "note": self.note, "ours": self.ours_seconds, "theirs": self.theirs_seconds}


def named(name):
    return lambda case: case["name"] == name


def chosen_of(family):
    return lambda case: case["family"] == family and (case["chosen"] or not case["plan"])


def layer_step(torch, module, x, dy, optimizers, dtype="float"):
    """Forward, dX and the parameters' gradients of one of four batches in turn, and the optimizers' steps."""
    turn = 0
    if dtype == "bf16":
        dy = [d.bfloat16() for d in dy]

    def run():
        nonlocal turn
        inputs = x[turn % len(x)].requires_grad_()
        inputs.grad = None
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            y = module(inputs)
        y.backward(dy[turn % len(dy)])
        for optimizer in optimizers:
            optimizer.step()
        turn += 1

    return run


def in_both(make):
    """{type: make(type)}"""
    return {dtype: make(dtype) for dtype in ("float", "bf16")}


def adamw(torch, parameters):
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, fused=True)


def layer_rows(torch, shape, entries, lora_rank, missing):
    out, inner, tokens = shape
    x = [torch.randn(tokens, inner) for _ in range(4)]
    dy = [torch.randn(tokens, out) for _ in range(4)]
    linear = torch.nn.Linear(inner, out)
    optimizer = adamw(torch, linear.parameters())
    rows = [
        Row(
            "step, dense: torch nn.Linear, fused AdamW",
            [(chosen_of("dense, AdamW"), 1)],
            in_both(lambda dtype: layer_step(torch, linear, x, dy, [optimizer], dtype)),
        )
    ]
    v, u = (torch.linalg.qr(torch.randn(n, n)).Q for n in (out, inner))
    for title, ours in [
        ("step, both sides full: the reference's layer in torch", "both sides full"),
        ("step, the reference's order: the reference's layer in torch", "in the basis (the paper's order)"),
    ]:
        layer = reference_layer(torch, linear, v, u, entries)
        optimizers = [torch.optim.SparseAdam([layer.weight], lr=RATE), adamw(torch, [layer.bias])]
        rows.append(Row(title, [(chosen_of(ours), 1)], {"float": layer_step(torch, layer, x, dy, optimizers)}))
    try:
        import peft
    except ImportError as absent:
        missing.append(f"peft's rows are left out: {absent}")
        return rows
    model = torch.nn.Sequential(copy.deepcopy(linear))
    config = peft.LoraConfig(r=lora_rank, lora_alpha=lora_rank / 2, lora_dropout=0.0, target_modules=["0"], bias="all")
    model = peft.get_peft_model(model, config)
    lora_optimizer = adamw(torch, [p for p in model.parameters() if p.requires_grad])
    rows.append(
        Row(
            f"step, LoRA of rank {lora_rank}: peft {peft.__version__}",
            [(chosen_of("LoRA of equal entries"), 1)],
            in_both(lambda dtype: layer_step(torch, model, x, dy, [lora_optimizer], dtype)),
        )
    )
    return rows


def part_rows(torch, shape, entries):
    """On one thread, as ours are."""
    out, inner, _ = shape

    def on_one_thread(run):
        def whole():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            run()
            torch.set_num_threads(threads)

        return whole

    matrix = torch.randn(out, inner)

    def select():
        order = torch.topk(matrix.abs().flatten(), entries, sorted=False).indices
        return matrix.flatten()[order]

    def select_sparse():
        least = torch.topk(matrix.abs().flatten(), entries).values[-1]
        return torch.where(matrix.abs() >= least, matrix, torch.zeros_like(matrix)).to_sparse()

    weight = torch.nn.Parameter(torch.randn(out, inner))
    adam = torch.optim.SparseAdam([weight], lr=RATE)
    gradients = []
    pool = torch.randperm(out * inner)[: 4 * entries]
    for _ in range(8):
        where = pool[torch.randperm(4 * entries)[:entries]].sort().values
        index = torch.stack([where // inner, where % inner])
        gradients.append(torch.sparse_coo_tensor(index, torch.randn(entries), (out, inner), is_coalesced=True, check_invariants=False))
    turn = 0

    def sparse_adam():
        nonlocal turn
        weight.grad = gradients[turn % 8]
        turn += 1
        adam.step()

    def top_k(case):
        return case["name"].startswith("top-k") and "normal" in case["name"]

    return [
        Row("top-k, one thread: torch.topk, unsorted, and the values", [(top_k, 1)], {"float": on_one_thread(select)}),
        Row(
            "top-k to a sparse matrix, one thread: torch.topk, where, to_sparse",
            [(top_k, 1)],
            {"float": on_one_thread(select_sparse)},
            "ours is the run above: its result is sparse already",
        ),
        Row(
            "sparse Adam, changing supports, one thread: torch.optim.SparseAdam",
            [(named("SparseAdam, changing supports, none new, one thread"), 1)],
            {"float": on_one_thread(sparse_adam)},
            "theirs also changes the weight; ours gives the update",
        ),
    ]


def fit_rows(torch, shape, gradients, missing):
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as absent:
        missing.append(f"TensorLy's row is left out: {absent}")
        return []
    out, inner, _ = shape
    tensorly.set_backend("pytorch")
    stack = torch.randn(gradients, out, inner)

    def tucker():
        # One sweep after the initial HOSVD: TensorLy does at least that.
        tensorly.decomposition.partial_tucker(stack, rank=[out, inner], modes=[1, 2], n_iter_max=1)

    return [
        Row(
            f"fit of both sides full, {inner} -> {out}, {gradients} gradients: TensorLy {tensorly.__version__}, partial_tucker, torch backend",
            [(named(f"{gradients} gradients to a basis, both sides full"), 1)],
            {"float": tucker},
            "theirs: HOSVD and one sweep of HOOI, which ours does without",
        )
    ]


def run_rows(rows, processes, rounds, missing, until):
    """`rounds` rounds, fewer where the time is up: one at least."""
    for row in rows:
        row.round(processes, missing)  # for warmth
        row.forget()
    for number in range(rounds):
        if number > 0 and time.perf_counter() > until:
            break
        for row in rows:
            row.round(processes, missing)


def measure(a, folder, command):
    """Writes peers.json after each section; gives lines about what was left out."""
    try:
        import torch
    except ImportError as absent:
        return f"The peers are left out: {absent}"
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    quick = a.size == "quick"
    until = time.perf_counter() + (a.budget or float("inf"))
    data = {
        "command": command,
        "date": str(datetime.date.today()),
        "machine": a.machine,
        "variants": [v.options() for v in a.variants],
        "torch": torch.__version__,
        "threads": a.threads,
        "rounds": a.peer_rounds,
        "load_before": os.getloadavg()[0],
        "missing": [],
        "note": a.note,
        "sections": [],
    }
    missing = data["missing"]

    def measured(title, options, rows_of, rounds):
        with contextlib.ExitStack() as stack:
            processes = {v: stack.enter_context(CaseProgram(a.program, **options, **v.options(), threads=a.threads)) for v in a.variants}
            rows = rows_of(next(iter(processes.values())).head)
            if not rows:
                return
            run_rows(rows, processes, rounds, missing, until)
        data["sections"].append({"title": title, "processors": processors(rows), "rows": [row.record() for row in rows]})
        data["load_after"] = os.getloadavg()[0]
        data["missing"] = missing[:] = list(dict.fromkeys(missing))
        write_aside(folder / "peers.json", json.dumps(data, separators=(",", ":")) + "\n")

    sizes = [(3072, 768, 512)] if quick else [(3072, 768, 512), (3072, 768, 2048)]
    for shape in sizes:
        out, inner, tokens = shape
        entries = round(0.01 * out * inner)

        def rows_of(head):
            rows = layer_rows(torch, shape, entries, head["lora_rank"], missing)
            return rows + (part_rows(torch, shape, entries) if shape == sizes[-1] else [])

        options = {"out": out, "in": inner, "tokens": tokens, "entries": entries}
        measured(f"{inner} -> {out}, {tokens} tokens, {entries} entries kept", options, rows_of, a.peer_rounds)
    fit_shape = (384, 96, 1) if quick else (768, 192, 1)
    options = {**dict(zip(("out", "in", "tokens"), fit_shape)), "entries": 1, "rank": 1, "gradients": 8}
    measured("Fit of a basis", options, lambda _: fit_rows(torch, fit_shape, 8, missing), max(1, a.peer_rounds // 2))
    return "\n".join(missing)


def processors(rows):
    """Processors that our runs on all threads had on average."""
    whole = [row for row in rows if "one thread" not in row.title]

    def total(of):
        return sum(sum(seconds) for row in whole for seconds in of(row).values())

    return total(lambda row: row.ours_cpu) / max(total(lambda row: row.ours_seconds), 1e-9)


def rows_of_section(section):
    """Pages of before had float alone, by the BLAS."""
    if "rows" in section:
        return section["rows"]
    return [{**pair, "ours": {"float-cpu_blas": pair["ours"]}, "theirs": {"float": pair["theirs"]}} for pair in section["pairs"]]


def section_table(section, variants):
    head = ["what: theirs"]
    types = [d for d in ("float", "bf16") if any(d in row["theirs"] for row in rows_of_section(section))]
    for dtype in types:
        head += [f"ours, {v.title}, ms" for v in variants if v.dtype == dtype]
        head += [f"theirs, {dtype}{' autocast' if dtype == 'bf16' else ''}, ms", "theirs / ours"]
    rows = []
    for row in rows_of_section(section):
        cells = [row["title"]]
        for dtype in types:
            ours = {v: row["ours"].get(v.slug) for v in variants if v.dtype == dtype}
            cells += [f"{1e3 * statistics.median(seconds):.4g}" if seconds else "" for seconds in ours.values()]
            theirs = row["theirs"].get(dtype)
            measured = [seconds for seconds in ours.values() if seconds]
            cells.append(f"{1e3 * statistics.median(theirs):.4g}" if theirs else "")
            best = min(measured, key=statistics.median, default=None)
            cells.append(spread([t / o for o, t in zip(best, theirs)]) if best and theirs else "")
        rows.append(cells)
    return table(head, rows)


def write(folder):
    """Writes peers.md of folder/peers.json; gives its path, or nothing where there is no such file."""
    file = pathlib.Path(folder) / "peers.json"
    if not file.exists():
        return []
    data = json.loads(file.read_text(encoding="utf-8"))
    machine, threads = data["machine"], data["threads"]
    variants = [Variant(v["backend"], v["dtype"]) for v in data.get("variants", [{"backend": "cpu_blas", "dtype": "float"}])]
    libraries = "; ".join(filter(None, [machine["blas"], machine.get("onednn")]))
    lines = [
        f"# Ours and others on {machine['processor'].split(' (')[0]}, {machine['cores']} cores",
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; {machine['processor']}; {machine['compiler']}; {libraries}; torch {data['torch']}; {threads} threads "
            f"where a row does not say one; {data['rounds']} rounds, half as many of the fit; load average {data['load_before']:.1f} before, "
            f"{data['load_after']:.1f} after." + (f" Other work: {data['note']}." if data["note"] else "")
        ),
        "",
        *wrapped(
            "Each round runs ours and then theirs; a ratio, median (min-max), is theirs over ours of the same round and type, ours by the faster library: "
            "above 1, ours is faster. 1 % of the entries are kept. Both sides full is ours under the plan that the cost model chooses."
        ),
        "",
    ]
    for section in data["sections"]:
        lines += [f"## {section['title']}", ""]
        lines += wrapped(f"Our runs on all threads had {section['processors']:.2f} processors: fewer than {threads} where other programs took some.")
        lines.append("")
        lines += section_table(section, variants)
        notes = [line for row in rows_of_section(section) if row["note"] for line in wrapped(f"- {row['title'].split(':')[0]}: {row['note']}.")]
        lines += [*notes, ""] if notes else []
    for why in data["missing"]:
        lines += wrapped(f"- {why}")
    write_aside(file.with_suffix(".md"), "\n".join(lines).rstrip() + "\n")
    return [str(file.with_suffix(".md"))]
