#!/usr/bin/env python3
"""Where the steps of all run types go, by kind of work: sparsegrad-glue train --profile, run after run, as two tables.

    step_profile.py --program P --model DIR --data DIR [--size base] [--tokens 350 4096] [--dtypes bf16 float] [--types ft ...]

The data is CoLA in batches of 32, unpadded (about 350 tokens a step, or what the model's vocabulary makes of it) or filled up to
128 (4096 tokens). One thread, whose processor time counts, so that other programs disturb little. The first table has
milliseconds a step and each kind's share of them, the second each kind's time over its own limit (docs/results/step_profile.md
says what that is). With --size the model has random weights (random_bert.py).
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import random_bert
from bert_step import prepare_model

TYPES = {
    "ft": ["--run-type", "ft"],
    "lora": ["--run-type", "lora", "--lora-rank", "51"],
    "best": ["--preset", "best", "--phase1-steps", "2"],
    "paper": ["--preset", "paper", "--learning-rate", "1e-4", "--batch-size", "32", "--phase1-steps", "2"],
    "topk": ["--run-type", "topk"],
}
# Column: kinds of work that it sums up.
COLUMNS = {
    "products": ("products: forward", "products: dX", "products: dW or core", "products: rotations"),
    "weight update": ("weight update",),
    "attention": ("attention",),
    "norm": ("norm, residual, dropout",),
    "activation": ("activation",),
    "AdamW": ("AdamW",),
    "top-k": ("top-k",),
    "sparse Adam": ("sparse Adam",),
}


def profile(a, model, kind, dtype, tokens):
    """A run's profile; the first two steps do not count."""
    steps = 12 if tokens < 1000 else 5
    if a.size:
        steps = min(steps, 6)
    with tempfile.TemporaryDirectory() as folder:
        command = [a.program, "train", "--task", "cola", "--model", model, "--data", a.data, *TYPES[kind], "--dtype", dtype]
        command += ["--threads", "1", "--no-save", "--quiet", "--profile", "--max-steps", str(steps), "--dev-limit", "32"]
        command += ["--padding", "max_length" if tokens >= 4096 else "unpadded", "--output", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads((pathlib.Path(folder) / "run.json").read_text(encoding="utf-8"))["profile"]


def sums(work, kinds):
    found = [work[kind] for kind in kinds if kind in work]
    return sum(w["seconds"] for w in found), sum(w["limit"] for w in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--program", "--model", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--size", choices=sorted(random_bert.SIZES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[350, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "float"])
    parser.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES))
    a = parser.parse_args()
    shares, limits = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(a, folder)
        for tokens in a.tokens:
            for dtype in a.dtypes:
                for kind in a.types:
                    found = profile(a, model, kind, dtype, tokens)
                    whole, steps = found["seconds"], found["steps"]
                    row = f"| `{kind}` | {found['tokens'] / steps:.0f} | {dtype} |"
                    parts = {name: sums(found["work"], kinds) for name, kinds in COLUMNS.items()}
                    rest = whole - sum(seconds for seconds, _ in parts.values())
                    share = [f"{100 * part / whole:.1f}" for part, _ in parts.values()] + [f"{100 * rest / whole:.1f}"]
                    shares.append(f"{row} {1000 * whole / steps:.0f} | {' | '.join(share)} |")
                    over = [f"{part / limit:.1f}" if limit else "" for part, limit in parts.values()]
                    limits.append(f"{row} {' | '.join(over)} |")
                    print(shares[-1], flush=True)
    names = list(COLUMNS)
    for title, more, rows in (("ms a step | ", [*names, "rest"], shares), ("", names, limits)):
        print(f"\n| run type | tokens | numbers | {title}{' | '.join(more)} |")
        print("|---|--:|---|" + "--:|" * (len(more) + bool(title)))
        print("\n".join(rows))


if __name__ == "__main__":
    main()
