#!/usr/bin/env python3
"""The whole fine-tuning step of a BERT: sparsegrad-glue against torch + transformers, and its run types against each other.

    bert_step.py --program P --model DIR --data DIR [--rounds 3] [--steps 12] [--threads N] [--only TITLE]... [--output FILE]

Each round runs every case once, in turn, on the same CoLA sentences in the same order (batch 32, dropout 0.1, AdamW);
a case is compared with another of its own round. A step is forward, backward and optimizer; the first two of a case are
left out. torch: attention by scaled_dot_product_attention, AdamW with foreach. "The method in torch" is that model with the
paper's own order of products in its MLP layers (reference_layer.py), random orthogonal bases, and SparseAdam. Needs
torch and transformers for torch's rows; without them the program's own rows remain.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from reference_layer import reference_layer

WARM = 2
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
    ("LoRA, unpadded", ["--run-type", "lora"], "unpadded"),
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
    ("sparse (paper), unpadded", "ft, unpadded", None),
    ("LoRA, unpadded", "ft, unpadded", None),
    ("frozen MLP, unpadded", "ft, unpadded", None),
    ("sparse (best), unpadded, 8 micro-batches", "ft, unpadded, 8 micro-batches", None),
    ("sparse (paper), unpadded, 8 micro-batches", "ft, unpadded, 8 micro-batches", None),
]


def program_seconds(a, options, padding, folder):
    command = [a.program, "train", "--task", "cola", "--model", a.model, "--data", a.data, "--output", folder]
    if "sparse" in options:
        command += ["--phase1-steps", "3"]  # which bases there are changes no time
    command += [*options, "--padding", padding, "--max-length", "128", "--batch-size", str(BATCH)]
    command += ["--learning-rate", str(RATE), "--no-shuffle", "--dropout", "0.1", "--log-every", "1", "--no-save", "--quiet"]
    command += ["--max-steps", str(a.steps), "--dev-limit", "32", "--threads", str(a.threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    steps = json.loads((pathlib.Path(folder) / "run.json").read_text())["steps"]
    # The log has the training time up to each step.
    return [after["seconds"] - before["seconds"] for before, after in zip(steps[WARM - 1 :], steps[WARM:])]


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
        return times[WARM:]


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="GLUE folder with CoLA")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="append", default=[], help="cases whose title begins so; repeatable")
    parser.add_argument("--output", help="file; default: the standard output")
    a = parser.parse_args()
    try:
        other = Torch(a)
    except ImportError as missing:
        print(f"torch's rows are left out: {missing}")
        other = None
    cases = [case for case in CASES if not isinstance(case[1], str) or other]
    if a.only:
        cases = [case for case in cases if any(case[0].startswith(start) for start in a.only)]
    times = {title: [] for title, _, _ in cases}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(a.rounds):
            for title, options, padding in cases:
                of_torch = isinstance(options, str)
                seconds = other.seconds(options, padding) if of_torch else program_seconds(a, options, padding, folder)
                times[title].append(statistics.median(seconds))

    lines = [
        f"{a.rounds} rounds of {a.steps} steps, {a.threads} threads, batch {BATCH}; {processor()}; "
        f"{datetime.date.today()}; {other.version if other else 'without torch'}; "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        "",
        "| step | median of the rounds, s | best, s | steps/s |",
        "|---|--:|--:|--:|",
    ]
    for title, rounds in times.items():
        middle = statistics.median(rounds)
        lines.append(f"| {title} | {middle:.3f} | {min(rounds):.3f} | {1 / middle:.2f} |")
    lines += ["", "| time of / time of | median | min | max | wanted | |", "|---|--:|--:|--:|--:|---|"]
    for first, second, wanted in PAIRS:
        if first not in times or second not in times:
            continue
        ratios = [x / y for x, y in zip(times[first], times[second])]
        middle = statistics.median(ratios)
        verdict = "" if wanted is None else "met" if middle <= wanted else "**missed**"
        goal = "" if wanted is None else f"<= {wanted:.2f}"
        lines.append(f"| {first} / {second} | {middle:.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {goal} | {verdict} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if a.output:
        pathlib.Path(a.output).write_text(text)


if __name__ == "__main__":
    main()
