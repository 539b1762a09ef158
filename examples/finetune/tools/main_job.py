#!/usr/bin/env python3
"""Fine-tunes a BERT on CoLA densely, sparsely and with the MLP matrices frozen, and compares.

main_job.py --program P --model DIR --output DIR [--data DIR] [--quick | --study | --full] [--also KIND]...

  --quick  one seed, one and a half epochs each, known learning rates: some ten minutes on two cores (default)
  --study  a learning rate searched for each run type alike with one seed, then three other seeds
  --full   the whole protocol: 20 epochs with early stopping, every learning rate, five seeds

A run that is finished under the same options is not repeated, one that was ended goes on. A run that fails is told, and
the others go on; the exit status is then 1. Writes table.md, table.csv, learning_curves.png and what `sparsegrad-glue
inspect` draws, and names them.
"""

import argparse
import csv
import io
import os
import pathlib
import shlex
import subprocess
import sys

from glue_plots import draw_curves
from glue_runs import BATCH, KINDS, Failed, Runner, best_of, interval, markdown, mebibytes, run_tool, say, spread, write_aside

COMPARED = ["ft", "sparse-paper", "sparse-best", "frozen-mlp"]
CONTROL = "frozen-mlp"
SEARCH_SEED = 7777

MODES = {
    "quick": {"epochs": 1.5, "seeds": [42], "rates": [], "eval": 50, "more": []},
    "study": {"epochs": 2, "seeds": [42, 3705, 2023], "rates": [5e-5, 1e-4], "eval": 134, "more": []},
    "full": {
        "epochs": 20,
        "seeds": [42, 3705, 2023, 37, 7777],
        "rates": [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4],
        "eval": 50,
        "more": ["--patience", "5"],
    },
}


class Job:
    def __init__(self, arguments, mode, kinds):
        self.arguments, self.mode, self.kinds = arguments, mode, kinds
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
        options += [*KINDS[kind]["options"].split(), "--batch-size", BATCH]
        options += ["--epochs", f"{self.mode['epochs']:g}", "--eval-every", str(self.mode["eval"])]
        options += ["--learning-rate", f"{rate:g}", "--seed", str(seed), "--log-every", "10"]
        title = f"{KINDS[kind]['title']}, learning rate {rate:g}, seed {seed}"
        return title, options, self.output / "runs" / kind / f"lr-{rate:g}" / f"seed-{seed}"

    def rates(self):
        """The learning rate of each kind: known, or the one with the best metric in a search of equal effort."""
        if not self.mode["rates"]:
            return {kind: KINDS[kind]["rate"] for kind in self.kinds}
        wanted = [(kind, rate) for kind in self.kinds for rate in self.mode["rates"]]
        logs = self.runner.run_all([self.one(kind, rate, SEARCH_SEED) for kind, rate in wanted])
        # A rate at which training fails (a loss that is no number) is worse than any other.
        scores = {pair: -2.0 if isinstance(log, Failed) else best_of(log) for pair, log in zip(wanted, logs)}
        texts = {pair: "failed" if score == -2.0 else f"{score:.4f}" for pair, score in scores.items()}
        rows = [[KINDS[kind]["title"]] + [texts[kind, rate] for rate in self.mode["rates"]] for kind in self.kinds]
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
        done = subprocess.run(words)
        if done.returncode != 0:
            raise SystemExit(f"{shlex.join(words)}\nended with status {done.returncode}")
        drawn = subprocess.run([sys.executable, pathlib.Path(__file__).with_name("plot_inspect.py"), os.path.abspath(folder)])
        if drawn.returncode not in (0, 3):
            raise SystemExit(f"plot_inspect.py {folder} ended with status {drawn.returncode}")
        return sorted(folder.glob("*.png"))


def table(logs, rates):
    """Rows of the comparison: `logs[kind]` is {seed: log} of the runs that did not fail."""
    titles = ["run", "learning rate", "Matthews correlation", "minus frozen MLP", "steps/s", "peak MiB", "weights"]
    titles += ["gradients", "optimizer", "activations", "basis", "program", "entries trained a step"]
    rows = []
    for kind, by_seed in logs.items():
        runs = list(by_seed.values())
        if not runs:
            rows.append([KINDS[kind]["title"], f"{rates[kind]:g}", "failed"] + [""] * (len(titles) - 3))
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
                KINDS[kind]["title"],
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
    others = [kind for kind in KINDS if kind not in COMPARED]
    parser.add_argument("--also", action="append", default=[], choices=others, help="a further kind of run; repeatable")
    parser.add_argument("--no-save", action="store_true", help="keep no trained models")
    parser.add_argument("--no-inspect", action="store_true", help="leave out the energy measurement")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    arguments = parser.parse_args()
    mode = dict(MODES[arguments.mode or "quick"])
    if arguments.epochs:
        mode["epochs"] = arguments.epochs
    kinds = COMPARED + arguments.also
    job = Job(arguments, mode, kinds)
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

    titles, rows = table(logs, rates)
    data = next(log for by_seed in logs.values() for log in by_seed.values())["data"]
    text = f"CoLA: {data.get('text', data)}; {mode['epochs']:g} epochs, seeds {mode['seeds']}; memory by part in MiB\n\n"
    text += markdown(titles, rows)
    if len(mode["seeds"]) > 1:
        text += f"\n± is the standard deviation over {len(mode['seeds'])} seeds; differences are taken seed by seed, with"
        text += " their 95 % confidence interval.\n"
    if failed:
        text += f"\n{failed} of {len(finished)} runs failed and are left out.\n"
    files = [job.output / "table.md", job.output / "table.csv"]
    write_aside(files[0], text + ("\n" + job.search if job.search else ""))
    sheet = io.StringIO()
    csv.writer(sheet, lineterminator="\n").writerows([titles, *rows])
    write_aside(files[1], sheet.getvalue())
    curves = {KINDS[kind]["title"]: list(by_seed.values()) for kind, by_seed in logs.items()}
    curves = draw_curves(curves, "Matthews correlation", job.output / "learning_curves.png")
    say("\n" + text)
    say("Files: " + ", ".join(str(f) for f in files + ([curves] if curves else []) + pictures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
