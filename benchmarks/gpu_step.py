#!/usr/bin/env python3
"""The whole fine-tuning step of a BERT on a GPU, by run type and precision: times, share of the peak, targets.

    gpu_step.py --program build/finetune-cuda/sparsegrad-glue [--size base|large] [--rounds 2] [--steps 30] [--peak TFLOPS] [--only TITLE]...
                [--output FOLDER]

The model has random weights (random_bert.py), the data is the program's built-in set filled up to 128 tokens, 32 a batch,
dropout 0.1: what a step costs depends on none of them. All cases run in turn in every round, so that ratios are those of one
round; a case's time is the median of its steps, the first five left out. A step is forward, backward, the optimizers and what
the program does between steps.

Operations of a step: 6 for each token and entry of a linear layer's weight (forward, dX, dW), 3 times 4 tokens^2 width for
attention, those that a run type saves or adds not counted. Share of the peak: those of a dense step over the time and the data
sheet's rate of dense 16-bit products (--peak for a GPU that is not known here).

Writes FOLDER/gpu_step.json and gpu_step.md, or prints the page. Needs nothing but Python and nvidia-smi.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import random_bert
from case_program import ratio_table, table, wrapped, write_aside

WARM = 5
BATCH, TOKENS = 32, 128
# Data sheets, dense bfloat16 on tensor cores, TFLOP/s; the first name that a GPU's contains.
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}

ONE_SIDED = ["--run-type", "sparse", "--preset", "best", "--phase1-steps", "3"]
BOTH_FULL = ["--run-type", "sparse", "--preset", "paper", "--phase1-steps", "3", "--state-capacity", "0"]
BF16 = ["--dtype", "bf16"]
CASES = {
    "ft, bf16": ["--run-type", "ft", *BF16],
    "sparse, one side of rank 64, bf16": [*ONE_SIDED, *BF16],
    "sparse, both sides full, bf16": [*BOTH_FULL, *BF16],
    "sparse, both sides full, bf16, TF32": [*BOTH_FULL, *BF16, "--tf32"],
    "LoRA of rank 7, bf16": ["--run-type", "lora", *BF16],
    "ft, float": ["--run-type", "ft"],
    "ft, TF32": ["--run-type", "ft", "--tf32"],
    "sparse, one side of rank 64, TF32": [*ONE_SIDED, "--tf32"],
}
# the time of one over that of another, and what is wanted of it for BERT-base
PAIRS = [
    ("sparse, one side of rank 64, bf16", "ft, bf16", 1.0),
    ("sparse, both sides full, bf16, TF32", "ft, bf16", 1 / 0.8),
    ("sparse, both sides full, bf16", "ft, bf16", None),
    ("LoRA of rank 7, bf16", "ft, bf16", None),
    ("sparse, one side of rank 64, TF32", "ft, TF32", None),
    ("ft, bf16", "ft, float", None),
]
WANTED_SHARE = 0.35


def operations(size):
    """Of a dense step."""
    layers, width, _, _ = random_bert.SIZES[size]
    entries = layers * (4 * width * width + 2 * 4 * width * width)
    return 6 * BATCH * TOKENS * entries + 3 * layers * BATCH * 4 * TOKENS * TOKENS * width


def seconds_of(a, options, model, folder):
    command = [a.program, "train", "--device", a.device, "--task", "cola", "--model", str(model), "--output", str(folder), *options]
    command += ["--padding", "max_length", "--max-length", str(TOKENS), "--batch-size", str(BATCH), "--learning-rate", "1e-5"]
    command += ["--dropout", "0.1", "--log-every", "1", "--max-steps", str(a.steps), "--dev-limit", str(BATCH), "--no-save", "--overwrite", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    steps = json.loads((folder / "run.json").read_text())["steps"]
    until = [record["seconds"] for record in steps][WARM - 1 :]
    return statistics.median(y - x for x, y in zip(until, until[1:]))


def gpu():
    """Name, driver and memory; `no GPU` where nvidia-smi finds none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    return lines[0].strip() if lines else "no GPU"


def peak_of(name):
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def pairs_of(size):
    """Targets are BERT-base's alone."""
    return [(first, second, wanted if size == "base" else None) for first, second, wanted in PAIRS]


def share(data, seconds):
    return data["operations"] / seconds / (data["peak_tflops"] * 1e12)


def page(data):
    batch = f"{BATCH} x {TOKENS}"
    peak = f"{data['peak_tflops']:g} TFLOP/s" if data["peak_tflops"] else "not known, see --peak"
    lines = [
        f"# A BERT's step on {data['gpu']}",
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; BERT-{data['size']}, random weights, batches of {batch}, {data['rounds']} rounds of {data['steps']} "
            f"steps. A dense step: {data['operations'] / 1e12:.2f} TFLOP; peak of 16-bit products, data sheet: {peak}."
        ),
        "",
    ]
    rows = []
    for title, rounds in data["seconds"].items():
        middle = statistics.median(rounds)
        of_peak = f"{100 * share(data, middle):.0f} %" if data["peak_tflops"] and "bf16" in title else ""
        rate = data["operations"] / middle / 1e12
        rows.append([title, f"{1e3 * middle:.2f}", f"{1e3 * min(rounds):.2f}", f"{1 / middle:.1f}", f"{rate:.0f}", of_peak])
    lines += table(["step", "ms: median", "best", "steps/s", "TFLOP/s of a dense step", "share of the peak"], rows)
    lines += ratio_table(data["seconds"], pairs_of(data["size"]))
    if data["size"] == "base" and data["peak_tflops"] and "ft, bf16" in data["seconds"]:
        found = share(data, statistics.median(data["seconds"]["ft, bf16"]))
        verdict = "met" if found >= WANTED_SHARE else "**missed**"
        lines += [f"ft in bf16 at {100 * found:.0f} % of the peak; wanted: {100 * WANTED_SHARE:.0f} %, {verdict}.", ""]
    for title, why in data["failed"].items():
        lines += [*wrapped(f"**Failed:** {title}: {why}."), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--size", choices=random_bert.SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--peak", type=float, help="TFLOP/s of dense 16-bit products")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the script")
    parser.add_argument("--only", action="append", default=[], help="cases whose title begins so; repeatable")
    parser.add_argument("--output", help="folder of gpu_step.json and gpu_step.md; default: the page on the standard output")
    a = parser.parse_args()
    if a.steps < WARM + 2 or a.rounds < 1:
        parser.error(f"--steps {a.steps} --rounds {a.rounds}: expected at least {WARM + 2} steps and a round")
    cases = {title: options for title, options in CASES.items() if not a.only or any(title.startswith(start) for start in a.only)}
    if not cases:
        parser.error(f"no case's title begins with {a.only}; there are: {', '.join(CASES)}")
    name = gpu()
    shown = ["--only " + repr(title) for title in a.only]
    data = {
        "command": " ".join([f"benchmarks/gpu_step.py --size {a.size} --rounds {a.rounds} --steps {a.steps}", *shown]),
        "date": str(datetime.date.today()),
        "gpu": name,
        "size": a.size,
        "rounds": a.rounds,
        "steps": a.steps,
        "operations": operations(a.size),
        "peak_tflops": a.peak or peak_of(name),
        "seconds": {title: [] for title in cases},
        "failed": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        random_bert.write(folder / "model", a.size)
        for number in range(a.rounds):
            for title, options in cases.items():
                if title in data["failed"]:
                    continue
                print(f"round {number + 1} of {a.rounds}: {title}", file=sys.stderr, flush=True)
                try:
                    data["seconds"][title].append(seconds_of(a, options, folder / "model", folder / "run"))
                except (subprocess.CalledProcessError, OSError) as error:
                    data["failed"][title] = f"exit status {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else error.strerror
                    del data["seconds"][title]
    if a.output:
        write_aside(pathlib.Path(a.output) / "gpu_step.json", json.dumps(data, separators=(",", ":")) + "\n")
        write_aside(pathlib.Path(a.output) / "gpu_step.md", page(data))
    else:
        print(page(data), end="")
    return 1 if data["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
