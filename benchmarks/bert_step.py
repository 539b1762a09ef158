#!/usr/bin/env python3
"""The whole fine-tuning step of a BERT: sparsegrad-glue against torch + transformers, and its run types against each other.

    bert_step.py --program P --model DIR --data DIR [--rounds 3] [--steps 12] [--threads N] [--only TITLE]... [--output FOLDER]

Each round runs every case once, in turn, on the same CoLA sentences in the same order (batch 32, dropout 0.1, AdamW);
a case is compared with another of its own round. A step is forward, backward and optimizer; the first two of a case are
left out. A refresh of the bases every 100 steps is an option: the cases of 104 steps have one, with the gradients collected for it,
in their mean. Memory is the program's own peak while training (run.json), phase 1 apart.
torch: attention by scaled_dot_product_attention, AdamW with foreach. "The method in torch" is that model with the
paper's own order of products in its MLP layers (reference_layer.py), random orthogonal bases, and SparseAdam. Needs
torch and transformers for torch's rows; without them the program's own rows remain.

Writes FOLDER/bert.json and FOLDER/bert.md, or prints the page.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from case_program import judged, paired_ratios, ratio_table, table, wrapped, write_aside
from reference_layer import reference_layer

WARM = 2
PERIOD = 104  # steps of a case that has a refresh in it
BATCH = 32
SHARE = 0.012  # of a matrix's entries, as preset paper keeps
RATE = 1e-4

SPARSE_ONE_SIDED = ["--run-type", "sparse", "--preset", "best"]
ACCUMULATED = ["--accumulation", "8"]
# title, options of the program or what torch does, padding
CASES = [
    ("ft, padded to 128", ["--run-type", "ft"], "max_length"),
    ("torch, padded to 128", "ft", "max_length"),
    ("the method in torch, padded to 128", "method", "max_length"),
    ("sparse (paper), padded to 128", ["--run-type", "sparse", "--preset", "paper"], "max_length"),
    ("sparse (best), padded to 128", SPARSE_ONE_SIDED, "max_length"),
    ("ft, unpadded", ["--run-type", "ft"], "unpadded"),
    ("torch, padded to the longest", "ft", "longest"),
    ("sparse (paper), unpadded", ["--run-type", "sparse", "--preset", "paper"], "unpadded"),
    ("sparse (best), unpadded", SPARSE_ONE_SIDED, "unpadded"),
    (f"ft, unpadded, mean of {PERIOD} steps", ["--run-type", "ft"], "unpadded"),
    (f"sparse (best) with a refresh, unpadded, mean of {PERIOD} steps", [*SPARSE_ONE_SIDED, "--refresh-every", "100"], "unpadded"),
    ("LoRA of rank 7, unpadded", ["--run-type", "lora"], "unpadded"),
    ("LoRA of rank 51, unpadded", ["--run-type", "lora", "--lora-rank", "51"], "unpadded"),
    ("frozen MLP, unpadded", ["--run-type", "frozen-mlp"], "unpadded"),
    ("ft, unpadded, 8 micro-batches", ["--run-type", "ft", *ACCUMULATED], "unpadded"),
    ("sparse (paper), unpadded, 8 micro-batches", ["--run-type", "sparse", "--preset", "paper", *ACCUMULATED], "unpadded"),
    ("sparse (best), unpadded, 8 micro-batches", [*SPARSE_ONE_SIDED, *ACCUMULATED], "unpadded"),
]
# what is compared with what, and the ratio (time of the first over time of the second) that is wanted
PAIRS = [
    ("ft, padded to 128", "torch, padded to 128", 1 / 1.2),
    ("ft, unpadded", "torch, padded to the longest", 1 / 2),
    ("sparse (paper), padded to 128", "ft, padded to 128", 1 / 0.75),
    ("sparse (paper), padded to 128", "the method in torch, padded to 128", 1 / 2.5),
    ("the method in torch, padded to 128", "torch, padded to 128", None),
    ("sparse (best), padded to 128", "ft, padded to 128", None),
    ("sparse (best), unpadded", "ft, unpadded", 1 / 1.1),
    (f"sparse (best) with a refresh, unpadded, mean of {PERIOD} steps", f"ft, unpadded, mean of {PERIOD} steps", None),
    ("sparse (paper), unpadded", "ft, unpadded", None),
    ("LoRA of rank 7, unpadded", "ft, unpadded", None),
    ("LoRA of rank 51, unpadded", "ft, unpadded", None),
    ("frozen MLP, unpadded", "ft, unpadded", None),
    ("sparse (best), unpadded, 8 micro-batches", "ft, unpadded, 8 micro-batches", None),
    ("sparse (paper), unpadded, 8 micro-batches", "ft, unpadded, 8 micro-batches", None),
]


# Peaks of training, the first over the second, and the ratio that is wanted. LoRA of rank 51 has as many entries as preset
# best steps (1.18 million).
MEMORY_PAIRS = [
    ("sparse (best), unpadded", "LoRA of rank 51, unpadded", 1.0),
    ("sparse (paper), unpadded", "ft, unpadded", 1.0),
    ("sparse (paper), padded to 128", "ft, padded to 128", 1.0),
]


def program_run(a, title, options, padding, folder):
    """(a step's seconds, bytes at the peak)"""
    whole_period = str(PERIOD) in title
    steps = PERIOD if whole_period else a.steps
    command = [a.program, "train", "--task", "cola", "--model", a.model, "--data", a.data, "--output", folder]
    if "sparse" in options:
        command += ["--phase1-steps", "3"]  # which bases there are changes no time
    command += [*options, "--padding", padding, "--max-length", "128", "--batch-size", str(BATCH)]
    command += ["--learning-rate", str(RATE), "--no-shuffle", "--dropout", "0.1", "--log-every", "1", "--no-save", "--quiet"]
    command += ["--max-steps", str(steps), "--dev-limit", "32", "--threads", str(a.threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    log = json.loads((pathlib.Path(folder) / "run.json").read_text())
    # The log has the training time up to each step.
    seconds = [record["seconds"] for record in log["steps"]][WARM - 1 :]
    if whole_period:
        return (seconds[-1] - seconds[0]) / (len(seconds) - 1), log["memory"]["process_peak_bytes"]
    return statistics.median(y - x for x, y in zip(seconds, seconds[1:])), log["memory"]["process_peak_bytes"]


class Torch:
    """transformers' BertForSequenceClassification, trained as `ft` is."""

    def __init__(self, a):
        import torch
        import transformers

        torch.set_num_threads(a.threads)
        self.torch, self.a = torch, a
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"
        transformers.utils.logging.set_verbosity_error()
        vocabulary = str(pathlib.Path(a.model) / "vocab.txt")
        self.tokenizer = transformers.BertTokenizer(vocabulary, do_lower_case=True)
        self.make = lambda: transformers.BertForSequenceClassification.from_pretrained(
            a.model, num_labels=2, attn_implementation="sdpa"
        )
        rows = (pathlib.Path(a.data) / "CoLA" / "train.tsv").read_text(encoding="utf-8").splitlines()
        rows = [row.split("\t") for row in rows[: BATCH * a.steps]]
        self.sentences, self.labels = [row[3] for row in rows], [int(row[1]) for row in rows]

    def put_in_basis(self, model):
        """Replaces the MLP layers by the paper's; returns their weights, which SparseAdam steps."""
        torch = self.torch
        bases = {}

        def basis(kind, n):
            if (kind, n) not in bases:
                bases[kind, n] = torch.linalg.qr(torch.randn(n, n)).Q
            return bases[kind, n]

        weights = []
        for block in model.bert.encoder.layer:
            for kind, owner in (("up", block.intermediate), ("down", block.output)):
                out, inner = owner.dense.weight.shape
                owner.dense = reference_layer(torch, owner.dense, basis(kind, out), basis(kind, inner), math.ceil(SHARE * out * inner))
                weights.append(owner.dense.weight)
        return weights

    def seconds(self, what, padding):
        torch = self.torch
        torch.manual_seed(42)
        model = self.make()
        model.train()
        sparse = self.put_in_basis(model) if what == "method" else []
        theirs = {id(weight) for weight in sparse}
        dense = [parameter for parameter in model.parameters() if id(parameter) not in theirs]
        optimizers = [torch.optim.AdamW(dense, lr=RATE, weight_decay=0.0, foreach=True)]
        if sparse:
            optimizers.append(torch.optim.SparseAdam(sparse, lr=RATE))
        times = []
        for first in range(0, len(self.sentences), BATCH):
            batch = self.tokenizer(self.sentences[first : first + BATCH], padding=padding, truncation=True, max_length=128, return_tensors="pt")
            labels = torch.tensor(self.labels[first : first + BATCH])
            start = time.perf_counter()
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(**batch, labels=labels).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARM:])


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def memory_ratios(data):
    peaks = data["peak_bytes"]
    for first, second, wanted in MEMORY_PAIRS:
        if first in peaks and second in peaks:
            # A thousandth is what two runs of one case differ by.
            yield f"{first} / {second}", round(peaks[first] / peaks[second], 3), wanted


def targets(data):
    found = [("BERT's step, time", what, statistics.median(ratios), wanted) for what, ratios, wanted in paired_ratios(data["seconds"], PAIRS)]
    found += [("BERT's step, peak memory", what, ratio, wanted) for what, ratio, wanted in memory_ratios(data)]
    return [
        {"section": section, "what": what, "wanted": f"<= {wanted:.2f}", "found": f"{ratio:.3f}", "met": ratio <= wanted}
        for section, what, ratio, wanted in found
        if wanted is not None
    ]


def page(data):
    lines = [
        f"# A BERT's step on {data['processor']}, {data['cores']} cores",
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; {data['threads']} threads, {data['rounds']} rounds of {data['steps']} steps, batch {BATCH} of CoLA; "
            f"{data['model']}; {data['torch'] or 'without torch'}; load average {data['load_before']:.1f} before, {data['load_after']:.1f} after."
        ),
        "",
        *wrapped(
            "All cases run in turn in every round; a ratio is that of two cases of the same round. Times are those of a step: the median of a round's steps "
            "(where the row says so their mean), then the median of the rounds. Peak memory: of the program's own process while it trains."
        ),
        "",
    ]
    times = data["seconds"]
    rows = []
    for title, rounds in times.items():
        middle = statistics.median(rounds)
        peak = data["peak_bytes"].get(title)
        rows.append([title, f"{middle:.3f}", f"{min(rounds):.3f}", f"{1 / middle:.2f}", f"{peak / 2**20:.0f}" if peak else ""])
    lines += table(["step", "s: median", "best", "steps/s", "peak MiB"], rows)
    lines += ratio_table(times, PAIRS)
    rows = [[what, f"{ratio:.3f}", *judged(ratio, wanted)] for what, ratio, wanted in memory_ratios(data)]
    lines += table(["peak memory of / of", "ratio", "wanted", ""], rows)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="GLUE folder with CoLA")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="append", default=[], help="cases whose title begins so; repeatable")
    parser.add_argument("--output", help="folder of bert.json and bert.md; default: the page on the standard output")
    a = parser.parse_args()
    load_before = os.getloadavg()[0]
    try:
        other = Torch(a)
    except ImportError as missing:
        print(f"torch's rows are left out: {missing}")
        other = None
    cases = [case for case in CASES if not isinstance(case[1], str) or other]
    if a.only:
        cases = [case for case in cases if any(case[0].startswith(start) for start in a.only)]
    times = {title: [] for title, _, _ in cases}
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(a.rounds):
            for title, options, padding in cases:
                print(f"round {number + 1} of {a.rounds}: {title}", file=sys.stderr, flush=True)
                if isinstance(options, str):
                    seconds = other.seconds(options, padding)
                else:
                    seconds, peak = program_run(a, title, options, padding, folder)
                    peaks[title] = max(peak, peaks.get(title, 0))
                times[title].append(seconds)

    shown = ["--only " + repr(title) for title in a.only]
    data = {
        "command": " ".join(["benchmarks/bert_step.py", f"--rounds {a.rounds}", f"--steps {a.steps}", f"--threads {a.threads}", *shown]),
        "date": str(datetime.date.today()),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": a.threads,
        "rounds": a.rounds,
        "steps": a.steps,
        "model": json.loads((pathlib.Path(a.model) / "config.json").read_text()).get("_name_or_path") or pathlib.Path(a.model).name,
        "torch": other.version if other else None,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "seconds": times,
        "peak_bytes": peaks,
    }
    data["targets"] = targets(data)
    text = page(data)
    if not a.output:
        print(text)
        return
    folder = pathlib.Path(a.output)
    write_aside(folder / "bert.json", json.dumps(data, separators=(",", ":")) + "\n")
    write_aside(folder / "bert.md", text)


if __name__ == "__main__":
    main()
