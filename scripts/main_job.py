#!/usr/bin/env python3
"""Fine-tunes a BERT on CoLA densely, sparsely and with the MLP matrices frozen, and compares.

main_job.py --program P --model DIR --output DIR [--data DIR] [--quick | --study | --full] [--also NAME]...

  --quick  one seed, one and a half epochs each, known learning rates: some ten minutes on two cores (default)
  --study  a learning rate searched for each run type alike with one seed, then three other seeds
  --full   the whole protocol: 20 epochs with early stopping, every learning rate, five seeds

A run that is finished under the same options is not repeated: an interrupted job goes on where it was. Writes
table.md, table.csv, learning_curves.png and what `sparsegrad-glue inspect` draws, and names them.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# Learning rates found by --study on CoLA with the 6-layer BERT (docs/results.md).
KINDS = {
    "ft": {"title": "ft", "options": ["--run-type", "ft"], "rate": 5e-5},
    "sparse-paper": {"title": "sparse (paper)", "options": ["--run-type", "sparse", "--preset", "paper"], "rate": 1e-4},
    "sparse-best": {"title": "sparse (best)", "options": ["--run-type", "sparse", "--preset", "best"], "rate": 5e-5},
    "frozen-mlp": {"title": "frozen MLP", "options": ["--run-type", "frozen-mlp"], "rate": 1e-4},
}
# Further settings that --also adds to the comparison.
CANDIDATES = {
    "fast": {
        "title": "sparse, fast transforms",
        "options": "--run-type sparse --preset paper --width-side hadamard --other-side hadamard".split(),
        "rate": 1e-4,
    },
    "random": {
        "title": "sparse, random basis",
        "options": "--run-type sparse --preset paper --width-side random --other-side random".split(),
        "rate": 1e-4,
    },
    "raw": {
        "title": "sparse, no basis",
        "options": "--run-type sparse --preset paper --width-side identity --other-side identity".split(),
        "rate": 1e-4,
    },
    "layer": {
        "title": "sparse (paper), a basis a layer, refreshed",
        "options": "--run-type sparse --preset paper --basis-scope layer --refresh-every 100".split(),
        "rate": 1e-4,
    },
    "random-64": {
        "title": "sparse (best), random basis",
        "options": "--run-type sparse --preset best --width-side random:64".split(),
        "rate": 1e-4,
    },
}
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


def say(text):
    print(text, flush=True)


class Job:
    def __init__(self, arguments, mode):
        self.arguments = arguments
        self.mode = mode
        self.output = pathlib.Path(arguments.output)

    def command(self, kind, rate, seed, folder):
        words = [self.arguments.program, "train", "--task", "cola", "--model", self.arguments.model]
        if self.arguments.data:
            words += ["--data", self.arguments.data]
        words += KINDS[kind]["options"]
        words += ["--epochs", str(self.mode["epochs"]), "--eval-every", str(self.mode["eval"])]
        words += ["--learning-rate", f"{rate:g}", "--seed", str(seed), "--log-every", "10"]
        words += ["--output", str(folder), *self.mode["more"], *self.arguments.more]
        if self.arguments.threads:
            words += ["--threads", str(self.arguments.threads)]
        if self.arguments.no_save:
            words += ["--no-save"]
        return words

    def run(self, kind, rate, seed):
        """The run's log, from disk where it is finished under the same options."""
        folder = self.output / "runs" / kind / f"lr-{rate:g}" / f"seed-{seed}"
        command = self.command(kind, rate, seed, folder)
        stamp = folder / "command.json"
        log = folder / "run.json"
        if stamp.exists() and log.exists() and json.loads(stamp.read_text()) == command[1:]:
            result = json.loads(log.read_text())
            if result.get("finished"):
                return result
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(command[1:]))
        say(f"--- {KINDS[kind]['title']}, learning rate {rate:g}, seed {seed}")
        quiet = self.arguments.jobs > 1
        if quiet:
            command.append("--quiet")
        done = subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}")
        return json.loads(log.read_text())

    def run_all(self, wanted):
        with ThreadPoolExecutor(max_workers=self.arguments.jobs) as pool:
            return list(pool.map(lambda one: self.run(*one), wanted))

    def rates(self):
        """The learning rate of each kind: known, or the one with the best metric in a search of equal effort."""
        if not self.mode["rates"]:
            return {kind: data["rate"] for kind, data in KINDS.items()}
        wanted = [(kind, rate, SEARCH_SEED) for kind in KINDS for rate in self.mode["rates"]]
        results = dict(zip(wanted, self.run_all(wanted)))
        chosen = {}
        rows = []
        for kind in KINDS:
            scores = {rate: best_of(results[kind, rate, SEARCH_SEED]) for rate in self.mode["rates"]}
            chosen[kind] = max(scores, key=scores.get)
            rows.append([KINDS[kind]["title"]] + [f"{scores[rate]:.4f}" for rate in self.mode["rates"]])
        titles = [f"learning rate search, seed {SEARCH_SEED}"] + [f"{rate:g}" for rate in self.mode["rates"]]
        self.search = markdown(titles, rows)
        say(self.search)
        return chosen

    def inspect(self):
        folder = self.output / "inspect"
        words = [self.arguments.program, "inspect", "--task", "cola", "--model", self.arguments.model]
        if self.arguments.data:
            words += ["--data", self.arguments.data]
        words += ["--output", str(folder)]
        say("--- energy of gradients in their largest entries")
        done = subprocess.run(words)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)}\nended with status {done.returncode}")
        return sorted(folder.glob("*.png"))


def best_of(log):
    return -1.0 if log["best"] is None else log["best"]["value"]


def spread(values, digits=3):
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def markdown(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def mebibytes(count):
    return f"{count / 2**20:.0f}"


def table(logs, rates):
    """Rows of the comparison: `logs[kind]` are one log a seed, in the order of the seeds."""
    titles = ["run", "learning rate", "Matthews correlation", "minus frozen MLP", "steps/s", "peak MiB", "weights"]
    titles += ["gradients", "optimizer", "activations", "basis", "program", "entries trained a step"]
    control = [best_of(log) for log in logs["frozen-mlp"]]
    rows = []
    for kind, runs in logs.items():
        scores = [best_of(log) for log in runs]
        first = runs[0]
        parts = first["memory"]["parts_bytes"]
        trained = first["trained"]
        entries = f"{trained['dense_parameters']} dense"
        if trained["sparse_parameters"]:
            entries += f" + {trained['sparse_entries_a_step']} of {trained['sparse_parameters']} sparse"
        differences = [score - other for score, other in zip(scores, control)]
        rows.append(
            [
                KINDS[kind]["title"],
                f"{rates[kind]:g}",
                spread(scores),
                "" if kind == "frozen-mlp" else spread(differences),
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


def draw(logs, target):
    """Training loss (running mean) and dev metric against steps; a line a run, a colour a kind."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        say("learning curves: Python's matplotlib is missing (scripts/setup.sh --python installs it)")
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for number, (kind, runs) in enumerate(logs.items()):
        for log in runs:
            label = KINDS[kind]["title"] if log is runs[0] else None
            steps = [record["step"] for record in log["steps"]]
            losses = [record["mean_loss"] for record in log["steps"]]
            smooth = []
            for loss in losses:
                smooth.append(loss if not smooth else 0.8 * smooth[-1] + 0.2 * loss)
            left.plot(steps, smooth, color=f"C{number}", linewidth=1, label=label)
            points = [(e["step"], e["metrics"][log["best"]["metric"]]) for e in log["evaluations"]]
            points = [(step, 0.0 if value is None else value) for step, value in points]
            right.plot(*zip(*points), color=f"C{number}", marker=".", linewidth=1, label=label)
    left.set_ylabel("training loss, exponential mean")
    right.set_ylabel("Matthews correlation on dev")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


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
    parser.add_argument("--also", action="append", default=[], choices=CANDIDATES, help="a further kind of run; repeatable")
    parser.add_argument("--no-save", action="store_true", help="keep no trained models")
    parser.add_argument("--no-inspect", action="store_true", help="leave out the energy measurement")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    arguments = parser.parse_args()
    KINDS.update((name, CANDIDATES[name]) for name in arguments.also)
    mode = dict(MODES[arguments.mode or "quick"])
    if arguments.epochs:
        mode["epochs"] = arguments.epochs
    job = Job(arguments, mode)
    job.output.mkdir(parents=True, exist_ok=True)

    rates = job.rates()
    wanted = [(kind, rates[kind], seed) for kind in KINDS for seed in mode["seeds"]]
    finished = job.run_all(wanted)
    logs = {kind: [log for one, log in zip(wanted, finished) if one[0] == kind] for kind in KINDS}
    pictures = [] if arguments.no_inspect else job.inspect()

    titles, rows = table(logs, rates)
    data = logs["ft"][0]["data"]
    text = f"CoLA: {data.get('text', data)}; {mode['epochs']:g} epochs, seeds {mode['seeds']}; memory by part in MiB\n\n"
    text += markdown(titles, rows)
    files = [job.output / "table.md", job.output / "table.csv"]
    files[0].write_text(text + ("\n" + job.search if hasattr(job, "search") else ""))
    with files[1].open("w", newline="") as sheet:
        csv.writer(sheet).writerows([titles, *rows])
    curves = draw(logs, job.output / "learning_curves.png")
    say("\n" + text)
    if len(mode["seeds"]) > 1:
        say(f"± is the standard deviation over {len(mode['seeds'])} seeds; differences are taken seed by seed.")
    say("Files: " + ", ".join(str(f) for f in files + ([curves] if curves else []) + pictures))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
