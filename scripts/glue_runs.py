"""Runs of sparsegrad-glue, and what is made of their logs: shared by main_job.py and glue_bench.py."""

import json
import math
import pathlib
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor

# Settings that are compared. Learning rates found by `main_job.py --study` on CoLA with the 6-layer BERT
# (docs/results.md) where it has the kind; the others have a neighbour's.
KINDS = {
    "ft": {"title": "ft", "options": "--run-type ft", "rate": 5e-5},
    "lora": {"title": "LoRA", "options": "--run-type lora", "rate": 1e-4},
    "sparse-paper": {"title": "sparse (paper)", "options": "--run-type sparse --preset paper", "rate": 1e-4},
    "sparse-best": {"title": "sparse (best)", "options": "--run-type sparse --preset best", "rate": 5e-5},
    "sparse-layer": {
        "title": "sparse (paper), a basis a layer, refreshed",
        "options": "--run-type sparse --preset paper --basis-scope layer --refresh-every 100",
        "rate": 1e-4,
    },
    "sparse-fast": {
        "title": "sparse, fast transforms",
        "options": "--run-type sparse --preset paper --width-side hadamard --other-side hadamard",
        "rate": 1e-4,
    },
    "sparse-random": {
        "title": "sparse, random basis",
        "options": "--run-type sparse --preset paper --width-side random --other-side random",
        "rate": 1e-4,
    },
    "sparse-random-64": {
        "title": "sparse (best), random basis",
        "options": "--run-type sparse --preset best --width-side random:64",
        "rate": 5e-5,
    },
    "sparse-reference": {
        "title": "sparse (reference's code)",
        "options": "--run-type sparse --preset paper --keep-phase1 --transposed-basis --rotated-bias --frozen-layernorm "
        "--signed-selection",
        "rate": 1e-4,
    },
    "topk": {"title": "top-k, no basis", "options": "--run-type topk", "rate": 1e-4},
    "meprop": {"title": "meProp", "options": "--run-type meprop", "rate": 5e-5},
    "frozen-mlp": {"title": "frozen MLP", "options": "--run-type frozen-mlp", "rate": 1e-4},
}


# Batches are the same for all kinds, whatever a preset would choose.
BATCH = "32"


def kind_of(name):
    """What "sparse-paper" or "sparse-paper+n-params=100000+refresh-every=50" stands for; None where it is no kind."""
    base, *changes = name.split("+")
    if base not in KINDS:
        return None
    kind = dict(KINDS[base], base=base)
    for change in changes:
        option, _, value = change.partition("=")
        kind["options"] += f" --{option}" + (f" {value}" if value else "")
        kind["title"] += f", {option} {value}".rstrip()
    return kind


def say(text):
    print(text, flush=True)


class Runner:
    """Runs the program; a run that is finished under the same options is read from disk, one that was ended goes on."""

    def __init__(self, program, jobs=1, threads=0, more=()):
        self.program, self.jobs = str(program), jobs
        self.more = [*more, *(["--threads", str(threads)] if threads else [])]

    def run(self, title, options, folder):
        """The run's log. `options` are those of `train` but for --output."""
        folder = pathlib.Path(folder)
        command = [self.program, "train", *options, *self.more, "--output", str(folder)]
        stamp, log = folder / "command.json", folder / "run.json"
        same = stamp.exists() and json.loads(stamp.read_text()) == command[1:]
        if same and log.exists():
            result = json.loads(log.read_text())
            if result.get("finished"):
                return result
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(command[1:]))
        if same:
            command.append("--resume")
        say(f"--- {title}")
        quiet = self.jobs > 1
        if quiet:
            command.append("--quiet")
        done = subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}")
        return json.loads(log.read_text())

    def run_all(self, wanted):
        """The logs of (title, options, folder)..., in their order."""
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            return list(pool.map(lambda one: self.run(*one), wanted))


def best_of(log):
    """The best value of the main metric on dev; 0 where it was never defined."""
    return 0.0 if log["best"] is None else log["best"]["value"]


def spread(values, digits=3):
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


# 0.975 quantiles of Student's t for 1, 2, ... degrees of freedom.
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]


def interval(differences, digits=3):
    """Mean of paired differences with its 95 % confidence interval."""
    mean = statistics.fmean(differences)
    n = len(differences)
    if n < 2:
        return f"{mean:+.{digits}f}"
    quantile = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else 1.96
    half = quantile * statistics.stdev(differences) / math.sqrt(n)
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def markdown(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def mebibytes(count):
    return f"{count / 2**20:.0f}"


def pyplot():
    """matplotlib's pyplot, or None where it is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        say("plots: Python's matplotlib is missing (scripts/setup.sh --python installs it)")
        return None
    return plt


def draw_curves(logs, metric_name, target):
    """Training loss (running mean) and dev metric against steps; a line a run, a colour a kind. `logs[kind]` are runs."""
    plt = pyplot()
    if plt is None:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for number, (kind, runs) in enumerate(logs.items()):
        for log in runs:
            label = kind_of(kind)["title"] if log is runs[0] else None
            steps = [record["step"] for record in log["steps"]]
            smooth = []
            for record in log["steps"]:
                loss = record["mean_loss"]
                smooth.append(loss if not smooth else 0.8 * smooth[-1] + 0.2 * loss)
            left.plot(steps, smooth, color=f"C{number}", linewidth=1, label=label)
            name = log["best"]["metric"] if log["best"] else None
            points = [(e["step"], e["metrics"].get(name) or 0.0) for e in log["evaluations"]]
            right.plot(*zip(*points), color=f"C{number}", marker=".", linewidth=1, label=label)
    left.set_ylabel("training loss, exponential mean")
    right.set_ylabel(f"{metric_name} on dev")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
