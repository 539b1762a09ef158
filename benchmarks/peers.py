"""The same computations by other programs: torch, peft, TensorLy. Each package is optional; what is missing is said.

Ours (benchmark_cases) and theirs run in turn, each round ours and then theirs, with as many threads, on numbers of the same kind
and size. grid.py calls this. A whole BERT against transformers is bert_step.py.
"""

import copy
import datetime
import json
import os
import pathlib
import statistics
import time

from case_program import CaseProgram, wrapped, write_aside
from reference_layer import reference_layer

RATE = 1e-5
# Before each run: threads of the other side's OpenMP still spin for a moment.
PAUSE = 0.02


class Pair:
    """`ours`: runs of benchmark_cases, as (name, times); `theirs`: a callable."""

    def __init__(self, title, ours, theirs, note=""):
        self.title, self.ours, self.theirs, self.note = title, ours, theirs, note
        self.forget()

    def round(self, process):
        time.sleep(PAUSE)
        runs = [(process.run(name), times) for name, times in self.ours]
        self.ours_seconds.append(sum(times * run["wall"] for run, times in runs))
        self.ours_cpu.append(sum(times * run["cpu"] for run, times in runs))
        time.sleep(PAUSE)
        start = time.perf_counter()
        self.theirs()
        self.theirs_seconds.append(time.perf_counter() - start)

    def record(self):
        return {"title": self.title, "note": self.note, "ours": self.ours_seconds, "theirs": self.theirs_seconds}

    def forget(self):
        self.ours_seconds, self.ours_cpu, self.theirs_seconds = [], [], []


def layer_step(torch, module, x, dy, optimizers):
    """Forward, dX and the parameters' gradients of one of four batches in turn, and the optimizers' steps."""
    turn = 0

    def run():
        nonlocal turn
        inputs = x[turn % len(x)].requires_grad_()
        inputs.grad = None
        for optimizer in optimizers:
            optimizer.zero_grad()
        module(inputs).backward(dy[turn % len(dy)])
        for optimizer in optimizers:
            optimizer.step()
        turn += 1

    return run


def adamw(torch, parameters):
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, fused=True)


def layer_pairs(torch, shape, entries, head, missing):
    out, inner, tokens = shape
    lora_rank = head["lora_rank"]
    both_full = next(c["name"] for c in head["cases"] if c["family"] == "both sides full" and c["chosen"])
    x = [torch.randn(tokens, inner) for _ in range(4)]
    dy = [torch.randn(tokens, out) for _ in range(4)]
    linear = torch.nn.Linear(inner, out)
    pairs = [
        Pair(
            "step, dense: torch nn.Linear, fused AdamW",
            [("dense, AdamW", 1)],
            layer_step(torch, linear, x, dy, [adamw(torch, linear.parameters())]),
        )
    ]
    v, u = (torch.linalg.qr(torch.randn(n, n)).Q for n in (out, inner))
    for title, ours in [
        ("step, both sides full: the reference's layer in torch", both_full),
        ("step, the reference's order: the reference's layer in torch", "in the basis (the paper's order)"),
    ]:
        layer = reference_layer(torch, linear, v, u, entries)
        optimizers = [torch.optim.SparseAdam([layer.weight], lr=RATE), adamw(torch, [layer.bias])]
        pairs.append(Pair(title, [(ours, 1)], layer_step(torch, layer, x, dy, optimizers)))
    try:
        import peft
    except ImportError as absent:
        missing.append(f"peft's rows are left out: {absent}")
        return pairs
    model = torch.nn.Sequential(copy.deepcopy(linear))
    config = peft.LoraConfig(r=lora_rank, lora_alpha=lora_rank / 2, lora_dropout=0.0, target_modules=["0"], bias="all")
    model = peft.get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    pairs.append(
        Pair(
            f"step, LoRA of rank {lora_rank}: peft {peft.__version__}",
            [("LoRA of equal entries", 1)],
            layer_step(torch, model, x, dy, [adamw(torch, trained)]),
        )
    )
    return pairs


def part_pairs(torch, shape, entries, names):
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

    top_k = next(n for n in names if n.startswith("top-k") and "normal" in n)
    return [
        Pair("top-k, one thread: torch.topk, unsorted, and the values", [(top_k, 1)], on_one_thread(select)),
        Pair(
            "top-k to a sparse matrix, one thread: torch.topk, where, to_sparse",
            [(top_k, 1)],
            on_one_thread(select_sparse),
            "ours is the run above: its result is sparse already",
        ),
        Pair(
            "sparse Adam, changing supports, one thread: torch.optim.SparseAdam",
            [("SparseAdam, changing supports, none new, one thread", 1)],
            on_one_thread(sparse_adam),
            "theirs also changes the weight; ours gives the update",
        ),
    ]


def fit_pairs(torch, shape, gradients, missing):
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
        Pair(
            f"fit of both sides full, {inner} -> {out}, {gradients} gradients: TensorLy {tensorly.__version__}, partial_tucker, torch backend",
            [(f"{gradients} gradients to a basis, both sides full", 1)],
            tucker,
            "theirs: HOSVD and one sweep of HOOI, which ours does without",
        )
    ]


def run_pairs(pairs, process, rounds):
    for pair in pairs:
        pair.round(process)  # for warmth
        pair.forget()
    for _ in range(rounds):
        for pair in pairs:
            pair.round(process)


def measure(program, threads, rounds, folder, command, note, quick):
    """Writes peers.json; gives a line about what was left out."""
    try:
        import torch
    except ImportError as absent:
        return f"The peers are left out: {absent}"
    torch.manual_seed(1)
    torch.set_num_threads(threads)
    missing = []
    sizes = [(768, 192, 128)] if quick else [(3072, 768, 512), (3072, 768, 2048)]
    fit_shape = (384, 96, 1) if quick else (768, 192, 1)
    sections = []
    load = os.getloadavg()[0]
    for out, inner, tokens in sizes:
        entries = round(0.01 * out * inner)
        options = {"out": out, "in": inner, "tokens": tokens, "entries": entries, "threads": threads}
        with CaseProgram(program, **options) as process:
            head = process.head
            names = [c["name"] for c in process.cases]
            pairs = layer_pairs(torch, (out, inner, tokens), entries, head, missing)
            if (out, inner, tokens) == sizes[-1]:
                pairs += part_pairs(torch, (out, inner, tokens), entries, names)
            run_pairs(pairs, process, rounds)
        sections.append((f"{inner} -> {out}, {tokens} tokens, {entries} entries kept", pairs))
    options = dict(zip(("out", "in", "tokens"), fit_shape))
    with CaseProgram(program, **options, threads=threads, entries=1, rank=1, gradients=8) as process:
        pairs = fit_pairs(torch, fit_shape, 8, missing)
        run_pairs(pairs, process, max(1, rounds // 2))
    if pairs:
        sections.append(("Fit of a basis", pairs))

    data = {
        "command": command,
        "date": str(datetime.date.today()),
        "machine": head["machine"],
        "torch": torch.__version__,
        "threads": threads,
        "rounds": rounds,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "missing": list(dict.fromkeys(missing)),
        "note": note,
        "sections": [{"title": title, "processors": processors(pairs), "pairs": [p.record() for p in pairs]} for title, pairs in sections],
    }
    write_aside(folder / "peers.json", json.dumps(data, separators=(",", ":")) + "\n")
    return "\n".join(data["missing"])


def processors(pairs):
    """Processors that our runs on all threads had on average."""
    whole = [p for p in pairs if "one thread" not in p.title]
    return sum(sum(p.ours_cpu) for p in whole) / sum(sum(p.ours_seconds) for p in whole)


def write(folder):
    """Writes peers.md of folder/peers.json; gives its path, or nothing where there is no such file."""
    file = pathlib.Path(folder) / "peers.json"
    if not file.exists():
        return []
    data = json.loads(file.read_text(encoding="utf-8"))
    machine, threads = data["machine"], data["threads"]
    lines = [
        f"# Ours and others on {machine['processor'].split(' (')[0]}, {machine['cores']} cores",
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; {machine['processor']}; {machine['compiler']}; {machine['blas']}; torch {data['torch']}; {threads} threads "
            f"where a row does not say one; {data['rounds']} rounds, half as many of the fit; load average {data['load_before']:.1f} before, "
            f"{data['load_after']:.1f} after." + (f" Other work: {data['note']}." if data["note"] else "")
        ),
        "",
        *wrapped(
            "Each round runs ours and then theirs; a ratio is theirs over ours of the same round: above 1, ours is faster. 1 % of the entries are kept. "
            "Both sides full is ours under the plan that the cost model chooses."
        ),
        "",
    ]
    for section in data["sections"]:
        pairs = section["pairs"]
        lines += [f"## {section['title']}", ""]
        lines += wrapped(f"Our runs on all threads had {section['processors']:.2f} processors: fewer than {threads} where other programs took some.")
        lines.append("")
        lines += ["| what: theirs | ours, ms | theirs, ms | theirs / ours: median | min | max |", "|---|--:|--:|--:|--:|--:|"]
        for pair in pairs:
            ratios = [t / o for o, t in zip(pair["ours"], pair["theirs"])]
            ours, theirs = (1e3 * statistics.median(pair[side]) for side in ("ours", "theirs"))
            lines.append(f"| {pair['title']} | {ours:.4g} | {theirs:.4g} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
        lines.append("")
        notes = [line for pair in pairs if pair["note"] for line in wrapped(f"- {pair['title'].split(':')[0]}: {pair['note']}.")]
        lines += [*notes, ""] if notes else []
    for why in data["missing"]:
        lines += wrapped(why)
    write_aside(file.with_suffix(".md"), "\n".join(lines).rstrip() + "\n")
    return [str(file.with_suffix(".md"))]
