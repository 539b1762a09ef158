#!/usr/bin/env python3
"""How far losses and metrics of a run in bf16 are from those of the same run in float: sparsegrad-glue and torch with autocast.

    bf16_agreement.py --program P --model DIR --data DIR [--seeds 1 2 3] [--examples 2048] [--dev 1043] [--threads 2]

Full fine-tuning on CoLA, batches of 32, dropout 0.1, AdamW at 1e-4, two epochs of the first --examples. Each side trains with each
seed in float and in bf16: the same weights at the start, order of examples and dropout masks. Printed are, for each seed and
side, the mean and the largest |loss in bf16 - loss in float| over the steps, and the two runs' loss on dev and Matthews
correlation. Beside it stands float with another seed, which is what a user calls noise. Needs torch and transformers.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import tempfile

BATCH, RATE, EPOCHS = 32, 1e-4, 2


def rows_of(path, limit):
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[3], int(row[1])) for row in rows][:limit]


def own_run(a, seed, dtype):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [a.program, "train", "--task", "cola", "--model", a.model, "--data", a.data, "--run-type", "ft", "--dtype", dtype]
            + ["--learning-rate", str(RATE), "--batch-size", str(BATCH), "--epochs", str(EPOCHS), "--train-limit", str(a.examples)]
            + ["--dev-limit", str(a.dev), "--seed", str(seed), "--threads", str(a.threads), "--log-every", "1", "--no-save"]
            + ["--quiet", "--output", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        run = json.loads((pathlib.Path(folder) / "run.json").read_text(encoding="utf-8"))
    losses = [record["loss"] for record in run["steps"]]
    last = run["evaluations"][-1]
    return losses, last["loss"], last["metrics"]["matthews_correlation"] or 0.0  # none: one class alone was predicted


def matthews(pairs):
    count = {(p, t): 0 for p in (0, 1) for t in (0, 1)}
    for pair in pairs:
        count[pair] += 1
    tp, tn, fp, fn = count[1, 1], count[0, 0], count[1, 0], count[0, 1]
    under = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / under if under else 0.0


class Torch:
    def __init__(self, a):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(a.threads)
        self.a, self.torch, self.transformers = a, torch, transformers
        self.tokenizer = transformers.BertTokenizer(str(pathlib.Path(a.model) / "vocab.txt"), do_lower_case=True)
        data = pathlib.Path(a.data) / "CoLA"
        self.train, self.dev = rows_of(data / "train.tsv", a.examples), rows_of(data / "dev.tsv", a.dev)

    def outputs(self, model, rows, dtype):
        torch = self.torch
        inputs = self.tokenizer([text for text, _ in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
        labels = torch.tensor([label for _, label in rows])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits.float(), labels), logits

    def run(self, seed, dtype):
        torch = self.torch
        torch.manual_seed(seed)
        model = self.transformers.BertForSequenceClassification.from_pretrained(self.a.model, num_labels=2)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
        losses = []
        for _ in range(EPOCHS):
            order = torch.randperm(len(self.train)).tolist()
            for first in range(0, len(order), BATCH):
                optimizer.zero_grad()
                loss, _ = self.outputs(model, [self.train[i] for i in order[first : first + BATCH]], dtype)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        model.eval()
        total, pairs = 0.0, []
        with torch.no_grad():
            for first in range(0, len(self.dev), BATCH):
                rows = self.dev[first : first + BATCH]
                loss, logits = self.outputs(model, rows, dtype)
                total += loss.item() * len(rows)
                pairs += list(zip(logits.argmax(1).tolist(), [label for _, label in rows]))
        return losses, total / len(self.dev), matthews(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--program", "--model", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--dev", type=int, default=1043)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch = Torch(a)
    sides = {"sparsegrad-glue": lambda seed, dtype: own_run(a, seed, dtype), "torch": torch.run}
    print("| program | seed | step's loss: mean difference | largest | dev loss float | bf16 | Matthews float | bf16 |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, run in sides.items():
        floats = []
        for seed in a.seeds:
            single, half = run(seed, "float"), run(seed, "bf16")
            floats.append(single)
            off = [abs(x - y) for x, y in zip(single[0], half[0], strict=True)]
            print(
                f"| {name} | {seed} | {statistics.mean(off):.5f} | {max(off):.5f} | {single[1]:.4f} | {half[1]:.4f} "
                f"| {single[2]:.4f} | {half[2]:.4f} |",
                flush=True,
            )
        if len(floats) > 1:
            loss, metric = ([run[i] for run in floats] for i in (1, 2))
            print(f"| {name} | float, deviation over seeds | | | {statistics.stdev(loss):.4f} | | {statistics.stdev(metric):.4f} | |", flush=True)


if __name__ == "__main__":
    main()
