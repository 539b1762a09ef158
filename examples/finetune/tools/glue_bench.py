#!/usr/bin/env python3
"""GLUE tasks x kinds of runs x seeds, as tables and plots.

glue_bench.py --program P --model DIR --data DIR --output DIR --tasks cola mrpc --kinds ft lora sparse-best
              [--seeds 42 3705 2023] [--rate ft=5e-5] [--rate mrpc/ft=2e-5] [--rates paper]
              [--options-of cola/lora=best.json] [--baseline ft] [-- option of train...]
glue_bench.py --file bench.json

A kind may be changed by options: sparse-paper+n-params=100000, sparse-best+refresh-every=0, sparse-paper+rotated-bias. In a
file stand the same words as on the command line, {"tasks": ["cola"], "rate": ["ft=5e-5"], "more": ["--epochs", "2"]}; the
command line has precedence.

Runs what is missing: a finished run is read from disk, one that was ended (kill -9 included) goes on from its last state,
one whose options or program differ is made anew. A run that fails is told, and the others go on. After every run it
writes table.md (metrics, paired differences from the baseline with their 95 % confidence intervals, further metrics,
steps/s, true peak memory), table.csv, pairs.csv and runs.csv; at the end metric_and_cost.png, curves_TASK.png and, where a
kind ran with several shares of kept entries, sparsity.png.

Exit status: 0 all runs are finished; 1 an error, or a run failed; 2 a command line that is not understood; 130 Ctrl-C.
"""

import argparse
import csv
import io
import itertools
import json
import os
import pathlib
import statistics
import sys

from glue_plots import data_of, draw_costs, draw_curves, draw_sparsity, model_of
from glue_runs import BATCH, KINDS, Failed, Runner, confidence, interval, kind_of, markdown, run_tool, say, spread, write_aside

# What the metrics of run.json are called in the tables.
METRIC_TITLES = {
    "matthews_correlation": "Matthews correlation",
    "accuracy": "accuracy",
    "f1": "F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "accuracy_mm": "accuracy, mismatched",
}
UNDEFINED = "†"
AVERAGE, WITHOUT_WNLI = "average", "average without wnli"


# ---- learning rates and batches ------------------------------------------------------------------------------------


def assignments(option, texts, tasks, kinds, convert):
    """{(task or "", kind): value} of KIND=VALUE and TASK/KIND=VALUE. A kind may have a "=" of its own."""
    found = {}
    for text in texts:
        cuts = [cut for cut, letter in enumerate(text) if letter == "="]
        splits = [(*text[:cut].rpartition("/")[::2], text[cut + 1 :]) for cut in cuts]
        here = [(task, kind, value) for task, kind, value in splits if kind in kinds and task in ("", *tasks)]
        known = [(task, kind, value) for task, kind, value in splits if kind_of(kind) is not None]
        if not known or not known[-1][2]:
            raise SystemExit(
                f"{option} is '{text}', expected KIND=VALUE or TASK/KIND=VALUE with a kind of {', '.join(KINDS)}"
            )
        if not here:
            say(f"{option} {text}: no run of this task and kind here")
            continue
        task, kind, value = here[0]
        found[task, kind] = convert(option, text, value)
    return found


def to_rate(option, text, value):
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise SystemExit(f"{option} is '{text}', expected a positive number behind the last =")
    return rate


def to_options_file(option, text, value):
    """The file's path, and the names of the options that it has."""
    path = os.path.abspath(value)
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{option} is '{text}': {error}") from None
    if not isinstance(content, dict):
        raise SystemExit(f"{option} is '{text}': {path} holds no object of options")
    return path, {name.replace("_", "-") for name in content}


def why_no_paper_rate(task, words):
    """Why `--preset paper` has no rate for these options of train; empty where it has one."""
    if task == "acceptability":
        return f"the paper has no task {task}"
    presets = [after for word, after in zip(words, words[1:]) if word == "--preset"]
    # Without a preset of its own a kind can be given the paper's, which changes nothing else: but for sparse.
    if presets or "sparse" in words:
        preset = presets[-1] if presets else "best"
        return "" if preset == "paper" else f"it has preset {preset}"
    return ""


class Settings:
    """Learning rate and batch size of each task and kind, as words of `train`."""

    def __init__(self, a):
        self.by_paper = a.rates == "paper"
        self.rates = assignments("--rate", a.rate, a.tasks, a.kinds, to_rate)
        self.files = assignments("--options-of", a.options_of, a.tasks, a.kinds, to_options_file)
        self.told = set()

    def words(self, task, kind):
        words = kind_of(kind)["options"].split()
        path, given = self.files.get((task, kind)) or self.files.get(("", kind)) or (None, set())
        # A kind's own changes count, too: ft+batch-size=16.
        given = given | {word.removeprefix("--") for word in words if word.startswith("--")}
        rate = self.rates.get((task, kind)) or self.rates.get(("", kind))
        why_not = why_no_paper_rate(task, words) if self.by_paper else "not wanted"
        if self.by_paper and why_not:
            self.tell(f"--rates paper does not apply to {kind}, which keeps its known rate and batch: {why_not}")
        if not why_not and "preset" not in given:
            words += ["--preset", "paper"]
        if path:
            words += ["--options", path]
        if rate is not None:
            words += ["--learning-rate", f"{rate:g}"]
        elif why_not and not given & {"learning-rate", "lr"}:
            words += ["--learning-rate", f"{kind_of(kind)['rate']:g}"]
        if why_not and "batch-size" not in given:
            words += ["--batch-size", BATCH]
        return words

    def tell(self, text):
        if text not in self.told:
            say(text)
        self.told.add(text)


# ---- tables --------------------------------------------------------------------------------------------------------


class Run:
    """What the tables need of a finished run's log."""

    def __init__(self, log):
        self.log = log
        best = log.get("best") or {}
        self.metric, self.best_step = best.get("metric"), best.get("step")
        # All metrics are those of the evaluation with the best main metric. Null is an undefined one: it counts as 0.
        found = [e["metrics"] for e in log["evaluations"] if e["step"] == self.best_step]
        metrics = found[-1] if found else {}
        self.metrics = {name: 0.0 if value is None else value for name, value in metrics.items()}
        self.undefined = {name for name, value in metrics.items() if value is None}
        self.main = self.metrics.get(self.metric, 0.0)
        self.main_undefined = self.metric not in self.metrics or self.metric in self.undefined
        self.rate, self.batch = log["options"]["learning_rate"], log["options"]["batch_size"]
        self.steps_per_second = log["time"]["steps_per_second"]
        self.peak = log["memory"]["process_peak_bytes"]
        self.phase1_peak = log["phase1"]["memory"]["process_peak_bytes"] if log["phase1"]["steps"] else None


class Bench:
    """The runs so far, `runs[task, kind, seed]` being a Run or Failed, and the tables of them."""

    def __init__(self, tasks, kinds, seeds, baseline):
        self.tasks, self.kinds, self.seeds, self.baseline = tasks, kinds, seeds, baseline
        self.runs = {}

    def title(self, kind):
        return kind_of(kind)["title"]

    def finished(self, task, kind):
        """{seed: Run}"""
        found = {seed: self.runs.get((task, kind, seed)) for seed in self.seeds}
        return {seed: run for seed, run in found.items() if isinstance(run, Run)}

    def failed(self, task, kind):
        return sum(isinstance(self.runs.get((task, kind, seed)), Failed) for seed in self.seeds)

    def averages(self):
        """{title: its tasks}; none where there is a single task."""
        found = {AVERAGE: self.tasks} if len(self.tasks) > 1 else {}
        others = [task for task in self.tasks if task != "wnli"]
        return {**found, WITHOUT_WNLI: others} if len(others) not in (0, len(self.tasks)) else found

    def of_seeds(self, kind, tasks, value):
        """{seed: mean of value(run) over the tasks} of the seeds that have finished all of them."""
        runs = {task: self.finished(task, kind) for task in tasks}
        whole = [seed for seed in self.seeds if all(seed in found for found in runs.values())]
        return {seed: statistics.fmean(value(runs[task][seed]) for task in tasks) for seed in whole}

    def columns(self):
        """{title: its tasks}: each task, and the averages."""
        return {**{task: [task] for task in self.tasks}, **self.averages()}

    def metric_of(self, task):
        found = [run.metric for kind in self.kinds for run in self.finished(task, kind).values() if run.metric]
        return found[0] if found else ""

    def metric_names(self, task):
        """All metrics of a task, the main one first."""
        runs = [run for kind in self.kinds for run in self.finished(task, kind).values()]
        names = sorted({name for run in runs for name in run.metrics})
        return sorted(names, key=lambda name: name != self.metric_of(task))

    def cell(self, kind, tasks, value, undefined, digits=2):
        """Mean and deviation over seeds, with marks for what is undefined, missing or failed."""
        values = list(self.of_seeds(kind, tasks, value).values())
        failed = sum(self.failed(task, kind) for task in tasks)
        if not values:
            return "failed" if failed else "-"
        text = spread(values, digits)
        if any(undefined(run) for task in tasks for run in self.finished(task, kind).values()):
            text += f" {UNDEFINED}"
        if len(values) < len(self.seeds):
            text += f" ({len(values)} of {len(self.seeds)})"
        return text

    def rate_cell(self, kind, tasks):
        runs = [run for task in tasks for run in self.finished(task, kind).values()]
        pairs = {f"{run.rate:.3g} / {run.batch}" for run in runs}
        return pairs.pop() if len(pairs) == 1 else "by task" if pairs else "-"

    def metric_table(self):
        columns = self.columns()
        rows = [
            [self.title(kind), self.rate_cell(kind, self.tasks)]
            + [
                self.cell(kind, tasks, lambda run: 100 * run.main, lambda run: run.main_undefined)
                for tasks in columns.values()
            ]
            for kind in self.kinds
        ]
        return markdown(["run", "learning rate / batch", *columns], rows)

    def pairs(self, kind, tasks):
        """Differences from the baseline, seed by seed."""
        own, other = (self.of_seeds(k, tasks, lambda run: run.main) for k in (kind, self.baseline))
        return [own[seed] - other[seed] for seed in self.seeds if seed in own and seed in other]

    def pair_table(self):
        columns = self.columns()
        rows = []
        for kind in self.kinds:
            if kind != self.baseline:
                pairs = [[100 * x for x in self.pairs(kind, tasks)] for tasks in columns.values()]
                rows.append([self.title(kind), *(interval(pair, 2) if pair else "-" for pair in pairs)])
        return markdown([f"minus {self.title(self.baseline)}", *columns], rows) if rows else ""

    def further_table(self):
        """The metrics beside the main ones; empty where there are none."""
        columns = [
            (task, name) for task in self.tasks for name in self.metric_names(task) if name != self.metric_of(task)
        ]
        rows = []
        for kind in self.kinds:
            rows.append([self.title(kind)])
            for task, name in columns:
                value = lambda run, name=name: 100 * run.metrics.get(name, 0.0)
                rows[-1].append(self.cell(kind, [task], value, lambda run, name=name: name in run.undefined))
        titles = [f"{task}, {METRIC_TITLES.get(name, name)}" for task, name in columns]
        return markdown(["run", *titles], rows) if columns else ""

    def speed_table(self):
        columns = {title: tasks for title, tasks in self.columns().items() if title != WITHOUT_WNLI}
        rows = [
            [self.title(kind)]
            + [self.cell(kind, tasks, lambda run: run.steps_per_second, lambda _: False) for tasks in columns.values()]
            for kind in self.kinds
        ]
        return markdown(["steps/s", *columns], rows)

    def peak(self, kind, tasks, value):
        """Mean over the tasks of the largest value of any seed; None where a task has none."""
        peaks = [[value(run) for run in self.finished(task, kind).values()] for task in tasks]
        peaks = [[value for value in found if value is not None] for found in peaks]
        return statistics.fmean(max(found) for found in peaks) if all(peaks) else None

    def memory_table(self):
        columns = {title: tasks for title, tasks in self.columns().items() if title != WITHOUT_WNLI}
        rows = []
        for kind in self.kinds:
            rows.append([self.title(kind)])
            for tasks in columns.values():
                peak = self.peak(kind, tasks, lambda run: run.peak)
                first = self.peak(kind, tasks, lambda run: run.phase1_peak)
                text = "-" if peak is None else f"{peak / 2**20:.0f}"
                rows[-1].append(text + (f" (phase 1: {first / 2**20:.0f})" if first is not None else ""))
        return markdown(["peak MiB", *columns], rows)

    def rate_table(self):
        """Empty where every kind has one learning rate and batch for all tasks."""
        rows = [[self.title(kind), *(self.rate_cell(kind, [task]) for task in self.tasks)] for kind in self.kinds]
        by_task = any(self.rate_cell(kind, self.tasks) == "by task" for kind in self.kinds)
        return markdown(["learning rate / batch", *self.tasks], rows) if by_task else ""

    def counts(self):
        wanted = [(task, kind, seed) for task in self.tasks for kind in self.kinds for seed in self.seeds]
        failed = {key: self.runs[key] for key in wanted if isinstance(self.runs.get(key), Failed)}
        return wanted, failed, [key for key in wanted if key not in self.runs]

    def text(self):
        """table.md"""
        wanted, failed, missing = self.counts()
        names = {name: METRIC_TITLES.get(name, name) for name in map(self.metric_of, self.tasks)}
        metrics = ", ".join(f"{task}: {names[self.metric_of(task)] or '?'}" for task in self.tasks)
        seeds = ", ".join(map(str, self.seeds))
        parts = [f"Best value on dev x 100, mean ± standard deviation over the seeds {seeds}. {metrics}."]
        if missing or failed:
            numbers = f"{len(wanted) - len(failed) - len(missing)} of {len(wanted)} runs are finished"
            numbers += f", {len(failed)} failed" if failed else ""
            numbers += f", {len(missing)} are missing" if missing else ""
            parts.append(f"**Not complete:** {numbers}. (1 of 3): so many of the seeds.")
        parts.append(self.metric_table())
        table = self.pair_table()
        if table:
            parts += ["Paired by seed, with the 95 % confidence interval of the mean (Student's t):", table]
        table = self.further_table()
        if table:
            parts += ["Further metrics x 100, at the evaluation with the best main metric:", table]
        parts += ["Steps a second of training, without phase 1 and evaluation:", self.speed_table()]
        parts += ["Peak memory of the process in training, the largest of the seeds:", self.memory_table()]
        table = self.rate_table()
        if table:
            parts.append(table)
        text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
        if UNDEFINED in text:
            text += (
                f"\n{UNDEFINED} The metric is undefined in a run (constant predictions, say), and counts as 0 there.\n"
            )
        if failed:
            text += "\nFailed:\n\n"
            for (task, kind, seed), failure in failed.items():
                text += f"- {task}, {self.title(kind)}, seed {seed}: {failure.text()}\n"
        return text

    # Numbers in the CSV files are as in run.json: metrics from -1 to 1, bytes.

    def run_rows(self):
        """runs.csv: a row a run."""
        every = sorted({name for task in self.tasks for name in self.metric_names(task)})
        titles = [
            "task",
            "kind",
            "seed",
            "status",
            "learning_rate",
            "batch_size",
            "metric",
            "value",
            *every,
            "undefined",
        ]
        titles += ["best_step", "steps", "steps_per_second", "peak_bytes", "phase1_peak_bytes", "exit_status", "error"]
        rows = []
        for task, kind, seed in self.counts()[0]:
            run, row = self.runs.get((task, kind, seed)), {"task": task, "kind": kind, "seed": seed}
            if isinstance(run, Run):
                row |= {"status": "finished", "learning_rate": run.rate, "batch_size": run.batch, "metric": run.metric}
                row |= {"value": run.main, **run.metrics, "undefined": " ".join(sorted(run.undefined))}
                row |= {"best_step": run.best_step, "steps": run.log["steps_done"]}
                row |= {"steps_per_second": run.steps_per_second, "peak_bytes": run.peak}
                row |= {"phase1_peak_bytes": run.phase1_peak, "exit_status": 0}
            elif isinstance(run, Failed):
                row |= {"status": "failed", "exit_status": run.status, "error": run.error}
            else:
                row |= {"status": "missing"}
            rows.append([row.get(title) for title in titles])
        return [titles, *rows]

    def table_rows(self):
        """table.csv: a row a kind and task (or average); `further` metrics have rows of their own."""
        titles = ["kind", "task", "metric", "learning_rate", "batch_size", "seeds", "finished", "failed", "undefined"]
        titles += ["mean", "sd", "steps_per_second_mean", "steps_per_second_sd", "peak_bytes", "phase1_peak_bytes"]
        rows = []
        for kind in self.kinds:
            for column, tasks in self.columns().items():
                names = self.metric_names(tasks[0]) or [self.metric_of(tasks[0])] if tasks == [column] else ["mean"]
                for number, name in enumerate(names):
                    rows.append(self.table_row(kind, column, tasks, name, number == 0))
        return [titles, *rows]

    def table_row(self, kind, column, tasks, name, main):
        runs = [run for task in tasks for run in self.finished(task, kind).values()]
        values = self.of_seeds(kind, tasks, lambda run: run.main if main else run.metrics.get(name, 0.0)).values()
        unknown = [run.main_undefined if main else name in run.undefined for run in runs]
        rates, batches = {run.rate for run in runs}, {run.batch for run in runs}
        row = [kind, column, name, *(found.pop() if len(found) == 1 else None for found in (rates, batches))]
        row += [len(self.seeds), len(values), sum(self.failed(task, kind) for task in tasks), sum(unknown)]
        steps = self.of_seeds(kind, tasks, lambda run: run.steps_per_second).values()
        row += [*mean_and_deviation(values), *mean_and_deviation(steps)]
        return row + [self.peak(kind, tasks, lambda run: run.peak), self.peak(kind, tasks, lambda run: run.phase1_peak)]

    def pair_rows(self):
        """pairs.csv: differences of the main metric from the baseline's."""
        rows = [["kind", "baseline", "task", "pairs", "mean", "low", "high"]]
        for kind, (column, tasks) in itertools.product(self.kinds, self.columns().items()):
            pairs = self.pairs(kind, tasks)
            if kind != self.baseline:
                mean = confidence(pairs) if pairs else (None, None, None)
                rows.append([kind, self.baseline, column, len(pairs), *mean])
        return rows

    def write(self, output):
        """The tables of what there is so far; a reader never meets a half of one."""
        files = [output / name for name in ("table.md", "table.csv", "pairs.csv", "runs.csv")]
        write_aside(files[0], self.text())
        for file, rows in zip(files[1:], (self.table_rows(), self.pair_rows(), self.run_rows())):
            sheet = io.StringIO()
            csv.writer(sheet, lineterminator="\n").writerows(rows)
            write_aside(file, sheet.getvalue())
        return files

    # ---- plots -----------------------------------------------------------------------------------------------------

    def average(self, kind):
        """Mean over tasks and seeds of the main metric x 100, and its deviation over seeds; None without a whole seed."""
        values = self.of_seeds(kind, self.tasks, lambda run: 100 * run.main).values()
        mean, deviation = mean_and_deviation(values)
        return None if mean is None else (mean, deviation or 0.0)

    def sparsity_lines(self):
        """Kinds that differ in nothing but the share of kept entries make a line."""
        lines = {}
        for kind in self.kinds:
            base, *changes = kind.split("+")
            others = "+".join([base, *(c for c in changes if c.partition("=")[0] not in ("n-params", "share"))])
            found = [run for task in self.tasks for run in self.finished(task, kind).values()]
            share = found[0].log["options"].get("sparse", {}).get("share") if found else None
            if share and self.average(kind):
                lines.setdefault(self.title(others), []).append((100 * share, *self.average(kind)))
        return {title: points for title, points in lines.items() if len({point[0] for point in points}) > 1}

    def draw(self, output):
        points = {}
        for kind in self.kinds:
            if self.average(kind):
                steps = mean_and_deviation(self.of_seeds(kind, self.tasks, lambda run: run.steps_per_second).values())
                peak = self.peak(kind, self.tasks, lambda run: run.peak) / 2**20
                points[self.title(kind)] = (*self.average(kind), peak, steps[0], steps[1] or 0.0)
        first = [runs[0].log for task in self.tasks if (runs := [run for kind in self.kinds for run in self.finished(task, kind).values()])]
        subject = f"{model_of(first[0])} on {', '.join(map(data_of, first))}" if first else ""
        names = [METRIC_TITLES.get(self.metric_of(task), self.metric_of(task)) for task in self.tasks]
        metric = names[0] if len(names) == 1 else "mean over tasks of their main metric"
        files = [draw_costs(points, output / "metric_and_cost.png", subject, metric, self.seeds)]
        references = {
            self.title(kind): points[self.title(kind)][0] for kind in ("ft", "lora") if self.title(kind) in points
        }
        files.append(draw_sparsity(self.sparsity_lines(), references, output / "sparsity.png", subject, metric, self.seeds))
        for task, name in zip(self.tasks, names):
            runs = {self.title(kind): [run.log for run in self.finished(task, kind).values()] for kind in self.kinds}
            files.append(draw_curves(runs, name, output / f"curves_{task}.png"))
        return [file for file in files if file]


def mean_and_deviation(values):
    values = list(values)
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


# ---- command line --------------------------------------------------------------------------------------------------


def words_of(path):
    """A file's words as those of a command line, and its further options of train."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise SystemExit(f"{path}: expected an object")
    words, more = [], []
    for key, value in content.items():
        name = key.replace("_", "-")
        values = [str(v) for v in (value if isinstance(value, list) else [value])]
        if name == "more":
            more = values
        elif name in ("rate", "options-of"):
            words += [word for v in values for word in (f"--{name}", v)]
        elif value is True:
            words.append(f"--{name}")
        elif value is not False:
            words += [f"--{name}", *values]
    return words, more


def command_line(words):
    """The words of the command line, behind those of the file that it names."""
    cut = words.index("--") if "--" in words else len(words)
    own, more = words[:cut], words[cut + 1 :]
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--file")
    known, rest = early.parse_known_args(own)
    if known.file:
        words, file_more = words_of(known.file)
        own, more = [*words, *rest], [*file_more, *more]
    return [*own, *(["--", *more] if more else [])]


def parsed(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--program", required=True, help="sparsegrad-glue")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", help="GLUE folder (default: $SPARSEGRAD_GLUE_DIR)")
    parser.add_argument("--output", required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--file", help="JSON file with the words of a command line")
    parser.add_argument("--kinds", nargs="+", required=True, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 3705, 2023])
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="[TASK/]KIND=NUMBER",
        help="learning rate in place of any other; a task's own comes before a kind's",
    )
    parser.add_argument(
        "--rates",
        choices=["known", "paper"],
        default="known",
        help="known: the kinds' own, with batches of 32; paper: learning rate and batch size of --preset paper",
    )
    parser.add_argument(
        "--options-of",
        action="append",
        default=[],
        metavar="[TASK/]KIND=FILE",
        help="a file for train's --options, such as the best.json of a search; its rate and batch size count",
    )
    parser.add_argument("--baseline", help="kind that the others are compared with (default: the first)")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps that a kill costs at most")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (with --threads 1, say)")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    parser.add_argument("--keep-models", action="store_true", help="keep the best model of every run")
    parser.add_argument(
        "--any-program", action="store_true", help="take finished runs of other builds of the program, too"
    )
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    a = parser.parse_args(command_line(words))
    a.tasks, a.kinds, a.seeds = ([*dict.fromkeys(values)] for values in (a.tasks, a.kinds, a.seeds))
    for kind in a.kinds:
        if kind_of(kind) is None:
            raise SystemExit(f"--kinds has '{kind}', expected {', '.join(KINDS)}, or one of these with +option=value")
    a.baseline = a.baseline or a.kinds[0]
    if a.baseline not in a.kinds:
        raise SystemExit(f"--baseline is '{a.baseline}', expected one of --kinds: {', '.join(a.kinds)}")
    if a.jobs < 1:
        raise SystemExit(f"--jobs is {a.jobs}, expected at least 1")
    return a


def main():
    a = parsed(sys.argv[1:])
    output = pathlib.Path(a.output)
    settings = Settings(a)
    more = [*a.more, "--checkpoint-every", str(a.checkpoint_every), *([] if a.keep_models else ["--no-save"])]
    runner = Runner(a.program, a.jobs, a.threads, more, a.any_program)
    # A relative name means another folder in another place.
    files = ["--model", os.path.abspath(a.model), *(["--data", os.path.abspath(a.data)] if a.data else [])]
    bench = Bench(a.tasks, a.kinds, a.seeds, a.baseline)
    wanted = {}
    for key in bench.counts()[0]:
        task, kind, seed = key
        options = ["--task", task, *files, *settings.words(task, kind), "--seed", str(seed)]
        folder = output / "runs" / task / kind / f"seed-{seed}"
        log = runner.finished(options, folder)
        if log is not None:
            bench.runs[key] = Run(log)
        else:
            wanted[key] = (f"{task}, {bench.title(kind)}, seed {seed}", options, folder)
    output.mkdir(parents=True, exist_ok=True)
    bench.write(output)

    keys = list(wanted)
    say(f"{len(bench.runs)} runs are finished, {len(keys)} are to be made; {output / 'table.md'} shows them")

    def each(number, log):
        bench.runs[keys[number]] = log if isinstance(log, Failed) else Run(log)
        bench.write(output)

    runs = [(f"[{number}/{len(keys)}] {wanted[key][0]}", *wanted[key][1:]) for number, key in enumerate(keys, 1)]
    runner.run_all(runs, each)

    files = [*bench.write(output), *bench.draw(output)]
    say("\n" + bench.text())
    say("Files: " + ", ".join(str(file) for file in files))
    failed = bench.counts()[1]
    if failed:
        say(f"{len(failed)} of {len(bench.runs)} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
