#!/usr/bin/env python3
"""Fine-tunes a BERT on CoLA densely, sparsely, with LoRA and with the MLP matrices frozen, and compares.

main_job.py --program P --model DIR --output DIR [--data DIR] [--quick | --study | --full] [--also KIND]...

  --quick  one seed, three epochs, known learning rates; the MLP matrices, their biases and the head train: at most ten
           minutes on two cores (default)
  --study  all parameters train; a learning rate searched for each run type alike with one seed, then three other seeds
  --full   the same with the whole protocol: 20 epochs with early stopping, every learning rate, five seeds

A run that is finished under the same options is not repeated, one that was ended goes on. A run that fails is told, and
the others go on; the exit status is then 1. Writes table.md, table.csv, learning_curves.png and what `sparsegrad-glue
inspect` draws, says in a sentence what they show, and names them.
"""

import argparse
import csv
import io
import math
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

from glue_plots import draw_curves
from glue_runs import (
    BATCH,
    KINDS,
    Failed,
    Runner,
    best_of,
    confidence,
    ends_with_this_process,
    interval,
    markdown,
    mebibytes,
    read_json,
    run_tool,
    say,
    spread,
    write_aside,
)

COMPARED = ["ft", "sparse-paper", "sparse-best", "lora", "frozen-mlp"]
CONTROL = "frozen-mlp"
SEARCH_SEED = 7777

# Where all parameters train, what happens to the MLP matrices hardly shows (docs/results/cola.md). The quick run is one in
# which they decide, of a length at which differences are larger than the noise of seeds (docs/results/demo.md).
MODES = {
    "quick": {
        "trained": "mlp",
        "epochs": 3,
        "seeds": [42],
        "rates": [],
        "eval": 75,
        "more": ["--train-parameters", "mlp", "--schedule", "linear"],
    },
    "study": {"trained": "all", "epochs": 2, "seeds": [42, 3705, 2023], "rates": [5e-5, 1e-4], "eval": 134, "more": []},
    "full": {
        "trained": "all",
        "epochs": 20,
        "seeds": [42, 3705, 2023, 37, 7777],
        "rates": [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4],
        "eval": 50,
        "more": ["--patience", "5"],
    },
}


TRAINED = {
    "mlp": "the MLP matrices, their biases and the head train",
    "all": "all parameters train",
}


def equal_rank(model):
    """The rank at which LoRA's factors have about as many entries as `--n-params 28000` changes in a matrix of this model;
    None where config.json does not say its sizes."""
    config = read_json(pathlib.Path(model) / "config.json")
    try:
        width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        return max(1, round(28000 / (768 * 3072) * width * inner / (width + inner)))
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None


class Job:
    def __init__(self, arguments, mode, names):
        self.arguments, self.mode = arguments, mode
        self.kinds = {name: dict(KINDS[name]) for name in names}
        rank = equal_rank(arguments.model)
        if rank is not None:
            self.kinds["lora"]["options"] += f" --lora-rank {rank}"
            self.kinds["lora"]["title"] += f", rank {rank}"
        # A relative name means another folder in another place.
        arguments.model = os.path.abspath(arguments.model)
        arguments.data = arguments.data and os.path.abspath(arguments.data)
        self.output = pathlib.Path(arguments.output)
        more = [*mode["more"], *arguments.more, *(["--no-save"] if arguments.no_save else [])]
        self.runner = Runner(arguments.program, arguments.jobs, arguments.threads, more)
        self.search = ""

    def one(self, kind, rate, seed):
        """Title, options and folder of a run."""
        options = ["--task", "cola", "--model", self.arguments.model]
        if self.arguments.data:
            options += ["--data", self.arguments.data]
        options += [*self.kinds[kind]["options"].split(), "--batch-size", BATCH, "--dtype", self.arguments.dtype]
        options += ["--epochs", f"{self.mode['epochs']:g}", "--eval-every", str(self.mode["eval"])]
        options += ["--learning-rate", f"{rate:g}", "--seed", str(seed), "--log-every", "10"]
        title = f"{self.kinds[kind]['title']}, learning rate {rate:g}, seed {seed}"
        return title, options, self.output / "runs" / kind / f"lr-{rate:g}" / f"seed-{seed}"

    def rates(self):
        """The learning rate of each kind: known, or the one with the best metric in a search of equal effort."""
        if not self.mode["rates"]:
            known = "mlp_rate" if self.mode["trained"] == "mlp" else "rate"
            return {name: kind[known] for name, kind in self.kinds.items()}
        wanted = [(kind, rate) for kind in self.kinds for rate in self.mode["rates"]]
        logs = self.runner.run_all([self.one(kind, rate, SEARCH_SEED) for kind, rate in wanted])
        # A rate at which training fails (a loss that is no number) is worse than any other.
        scores = {pair: -2.0 if isinstance(log, Failed) else best_of(log) for pair, log in zip(wanted, logs)}
        texts = {pair: "failed" if score == -2.0 else f"{score:.4f}" for pair, score in scores.items()}
        rows = [[self.kinds[kind]["title"]] + [texts[kind, rate] for rate in self.mode["rates"]] for kind in self.kinds]
        titles = [f"learning rate search, seed {SEARCH_SEED}"] + [f"{rate:g}" for rate in self.mode["rates"]]
        self.search = markdown(titles, rows)
        say(self.search)
        return {kind: max(self.mode["rates"], key=lambda rate: scores[kind, rate]) for kind in self.kinds}

    def inspect(self):
        folder = self.output / "inspect"
        words = [self.arguments.program, "inspect", "--task", "cola", "--model", self.arguments.model]
        if self.arguments.data:
            words += ["--data", self.arguments.data]
        words += ["--output", os.path.abspath(folder)]
        say("--- energy of gradients in their largest entries")
        done = subprocess.run(words, preexec_fn=ends_with_this_process())
        if done.returncode != 0:
            raise SystemExit(f"{shlex.join(words)}\nended with status {done.returncode}")
        drawn = subprocess.run([sys.executable, pathlib.Path(__file__).with_name("plot_inspect.py"), os.path.abspath(folder)])
        if drawn.returncode not in (0, 3):
            raise SystemExit(f"plot_inspect.py {folder} ended with status {drawn.returncode}")
        return sorted(folder.glob("*.png"))


def table(logs, rates, kinds):
    """Rows of the comparison: `logs[kind]` is {seed: log} of the runs that did not fail."""
    titles = ["run", "learning rate", "Matthews correlation", "minus frozen MLP", "steps/s", "peak MiB", "weights"]
    titles += ["gradients", "optimizer", "activations", "basis", "program", "entries trained a step"]
    rows = []
    for kind, by_seed in logs.items():
        runs = list(by_seed.values())
        if not runs:
            rows.append([kinds[kind]["title"], f"{rates[kind]:g}", "failed"] + [""] * (len(titles) - 3))
            continue
        scores = [best_of(log) for log in runs]
        first = runs[0]
        parts = first["memory"]["parts_bytes"]
        trained = first["trained"]
        entries = f"{trained['dense_parameters']} dense"
        if trained["sparse_parameters"]:
            entries += f" + {trained['sparse_entries_a_step']} of {trained['sparse_parameters']} sparse"
        pairs = [(log, logs[CONTROL][seed]) for seed, log in by_seed.items() if seed in logs[CONTROL]]
        differences = [best_of(log) - best_of(other) for log, other in pairs]
        rows.append(
            [
                kinds[kind]["title"],
                f"{rates[kind]:g}",
                spread(scores),
                "" if kind == CONTROL or not differences else interval(differences),
                spread([log["time"]["steps_per_second"] for log in runs], 2),
                mebibytes(first["memory"]["process_peak_bytes"]),
                mebibytes(parts["weights"]),
                mebibytes(parts["gradients"]),
                mebibytes(parts["optimizer"]),
                mebibytes(parts["activations"]),
                mebibytes(parts["basis"] + parts["collection"]),
                mebibytes(parts["program"]),
                entries,
            ]
        )
    return titles, rows


def noise(logs, sentences):
    """The difference of two Matthews correlations that the choice of the dev sentences alone explains: two standard errors
    of it, that of one correlation being 1 / sqrt(sentences) at most."""
    seeds = min(len(by_seed) for by_seed in logs.values() if by_seed)
    return 2 * math.sqrt(2 / (sentences * seeds))


def percent(part, whole):
    return f"{100 * part / whole:.0f} %"


def conclusion(logs, kinds):
    """What the runs show, in a sentence that is made from their numbers. `logs` as for table()."""
    missing = [kinds[kind]["title"] for kind in ("ft", CONTROL) if not logs[kind]]
    if missing:
        return f"the runs of {' and '.join(missing)} failed, without which the others have nothing to be held against."
    score = {kind: statistics.fmean(map(best_of, by_seed.values())) for kind, by_seed in logs.items() if by_seed}
    first = {kind: next(iter(by_seed.values())) for kind, by_seed in logs.items() if by_seed}
    sentences = first["ft"]["data"]["dev"]["examples"]
    chance = noise(logs, sentences)
    gain = score["ft"] - score[CONTROL]
    pairs = [best_of(log) - best_of(logs[CONTROL][seed]) for seed, log in logs["ft"].items() if seed in logs[CONTROL]]
    low = confidence(pairs)[1] if len(pairs) > 1 else None
    if gain <= chance or (low is not None and low <= 0):
        return (
            f"full fine-tuning ({score['ft']:.2f}) is not above the control with frozen MLP matrices "
            f"({score[CONTROL]:.2f}) by more than chance explains ({chance:.2f} with {sentences} sentences), so that this "
            "table says nothing about the methods."
        )
    entries = first["ft"]["trained"]["dense_parameters"] - first[CONTROL]["trained"]["dense_parameters"]
    peak = first["ft"]["memory"]["process_peak_bytes"]
    shares = []
    for kind in ("sparse-paper", "sparse-best", "lora"):
        if kind not in score:
            continue
        text = f"{kinds[kind]['title']} reaches {percent(max(0.0, score[kind] - score[CONTROL]), gain)}"
        if kind == "sparse-paper" and entries > 0:
            text += f" by changing {100 * first[kind]['trained']['sparse_entries_a_step'] / entries:.1f} % of the entries a step"
        elif kind == "sparse-best":
            text += f" in {percent(first[kind]['memory']['process_peak_bytes'], peak)} of the memory"
        elif kind == "lora" and entries > 0:
            trained = first[kind]["trained"]["dense_parameters"] - first[CONTROL]["trained"]["dense_parameters"]
            text += f" with {100 * trained / entries:.1f} % as many entries"
        shares.append(text)
    text = (
        f"with its MLP matrices frozen the model gets a Matthews correlation of {score[CONTROL]:.2f} on dev, and with all "
        f"their entries trained {score['ft']:.2f}"
    )
    if shares:
        text += "; of that gain " + (", ".join(shares[:-1]) + " and " if shares[1:] else "") + shares[-1]
    return f"{text} (differences below {chance:.2f}, {percent(chance, gain)} of the gain, may be chance)."


ROWS = (
    "ft: full fine-tuning. sparse: SparseGrad with presets paper and best. LoRA: two factors of low rank beside each MLP\n"
    "matrix. frozen MLP: the control, in which these matrices stay as they are.\n"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="sparsegrad-glue")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--output", required=True)
    parser.add_argument("--data", help="GLUE folder; without it the built-in set")
    length = parser.add_mutually_exclusive_group()
    for name in MODES:
        length.add_argument(f"--{name}", dest="mode", action="store_const", const=name)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (with --threads 1, say)")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    parser.add_argument("--epochs", type=float, help="in place of the mode's")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the mode's")
    parser.add_argument("--dtype", default="auto", help="of activations, train's --dtype: auto, float, bf16, fp16 (auto)")
    parser.add_argument("--also", action="append", default=[], choices=list(KINDS), help="a further kind of run; repeatable")
    parser.add_argument("--no-save", action="store_true", help="keep no trained models")
    parser.add_argument("--no-inspect", action="store_true", help="leave out the energy measurement")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    arguments = parser.parse_args()
    mode = dict(MODES[arguments.mode or "quick"])
    if arguments.epochs:
        mode["epochs"] = arguments.epochs
    if arguments.seeds:
        mode["seeds"] = list(dict.fromkeys(arguments.seeds))
    job = Job(arguments, mode, dict.fromkeys(COMPARED + arguments.also))
    kinds = job.kinds
    job.output.mkdir(parents=True, exist_ok=True)

    rates = job.rates()
    wanted = [(kind, seed) for kind in kinds for seed in mode["seeds"]]
    finished = job.runner.run_all([job.one(kind, rates[kind], seed) for kind, seed in wanted])
    logs = {kind: {} for kind in kinds}
    for (kind, seed), log in zip(wanted, finished):
        if not isinstance(log, Failed):
            logs[kind][seed] = log
    failed = sum(isinstance(log, Failed) for log in finished)
    if failed == len(finished):
        raise SystemExit("all runs failed")
    pictures = [] if arguments.no_inspect else job.inspect()

    titles, rows = table(logs, rates, kinds)
    some = next(log for by_seed in logs.values() for log in by_seed.values())
    data, dtype = some["data"], some["options"].get("dtype", "float")
    text = f"CoLA: {data.get('text', data)}; {TRAINED[mode['trained']]}; {mode['epochs']:g} epochs, seeds {mode['seeds']},"
    text += f" {dtype}; memory by part in MiB\n\n"
    text += markdown(titles, rows) + "\n" + ROWS
    if len(mode["seeds"]) > 1:
        text += f"\n± is the standard deviation over {len(mode['seeds'])} seeds; differences are taken seed by seed, with"
        text += " their 95 % confidence interval.\n"
    if failed:
        text += f"\n{failed} of {len(finished)} runs failed and are left out.\n"
    files = [job.output / "table.md", job.output / "table.csv"]
    shown = "What you have just seen: " + conclusion(logs, kinds)
    write_aside(files[0], text + ("\n" + job.search if job.search else "") + f"\n{shown}\n")
    sheet = io.StringIO()
    csv.writer(sheet, lineterminator="\n").writerows([titles, *rows])
    write_aside(files[1], sheet.getvalue())
    curves = {kinds[kind]["title"]: list(by_seed.values()) for kind, by_seed in logs.items()}
    curves = draw_curves(curves, "Matthews correlation", job.output / "learning_curves.png")
    say("\n" + text)
    say(shown)
    say("\nTables: " + ", ".join(map(str, files)))
    plots = ([curves] if curves else []) + pictures
    say("Plots: " + (", ".join(map(str, plots)) or "none"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
