#!/usr/bin/env python3
"""Run types of `sparsegrad-llm train` side by side on one data set, learning rates searched alike for all.

llm_study.py --program P --model MODEL --data FILE --output DIR [--other FILE] [--choices FILE] [--where lang=en]
             [--kinds ft lora ...] [--seeds 42 3705 ...] [--rate KIND=NUMBER] [--hours H] [-- option of train...]

1. Rates: from a first guess, up and down by factors of 3 until the best, by the mean over --search-seeds, has a worse one on both
   sides.
2. Seeds: every kind once a round, at its best rate. A seed decides the order of the examples and which of them are held out,
   and it never is one of the search's. With --other, the loss on that file (its first --other-limit records) is taken of every saved
   model and of the one it began from: what a run forgets. With --choices, the share of right answers to questions of multiple
   choice is taken likewise; each seed has --choices-limit questions of its own, in the order of the file, so that intervals over
   seeds hold for other questions too. The saved model is removed then.

The validation loss is that of the last step, over what was held out; before the first step it is that of the model as it comes,
the row "frozen". Finished runs are read from disk, an ended one goes on: the command can be given again at any time, with more
seeds or kinds too. After every run table.md and runs.csv are written, at the end rates.png.

Exit status: 0 all runs are finished, or --hours are over; 1 an error, or a run failed; 130 Ctrl-C.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from glue_plots import finish, name_of, pyplot, seeds_text, style, titled
from glue_runs import Failed, Runner, ends_with_this_process, interval, markdown, mebibytes, read_json, run_tool, say, spread, write_aside

PAPER = "--run-type sparse --preset paper --phase1-steps 5"
BEST = "--run-type sparse --preset best --phase1-steps 5"
# Options, and the rate that the search begins with.
KINDS = {
    "ft": ("ft", "--run-type ft", 3e-4),
    "lora": ("LoRA, rank 32", "--run-type lora --lora-rank 32 --lora-scale 1", 3e-3),
    "sparse-paper": ("sparse (paper), 0.2 %", PAPER, 3e-3),
    "sparse-best": ("sparse (best), one side of 64", BEST, 1e-3),
    "topk": ("top-k 0.2 %, no basis", "--run-type topk --share 0.002", 3e-3),
    "meprop": ("meProp, 5 % of a row of dY", "--run-type meprop", 3e-4),
    "sparse-random": ("sparse (paper) in a random basis", f"{PAPER} --width-side random --other-side random", 3e-3),
    "sparse-random-64": ("sparse (best) in a random basis", f"{BEST} --width-side random:64", 1e-3),
    "lora-46": ("LoRA, rank 46: entries of best", "--run-type lora --lora-rank 46 --lora-scale 1", 3e-3),
    "lora-1": ("LoRA, rank 1: entries of paper", "--run-type lora --lora-rank 1 --lora-scale 1", 1e-2),
    "sparse-paper-8": ("sparse (paper), 7.6 %: entries of LoRA 32", f"{PAPER} --share 0.0764", 1e-3),
}
# What is compared beside ft and lora, where both were run: what the basis is worth, and equal numbers of entries.
CONTROLS = [
    ("sparse-paper", "sparse-random"),
    ("sparse-paper", "topk"),
    ("sparse-best", "sparse-random-64"),
    ("sparse-best", "sparse-paper"),
    ("sparse-best", "lora-46"),
    ("sparse-paper", "lora-1"),
    ("sparse-paper-8", "lora"),
]
FROZEN = "frozen"
SEEDS = [42, 3705, 2023, 37, 7777]
DIVERGED = float("inf")


# ---- rates ---------------------------------------------------------------------------------------------------------


def grid_rate(place):
    """..., 1e-4, 3e-4, 1e-3, ...: the rate at a place of the grid that all kinds share."""
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def place_of(rate):
    return next(place for place in range(-24, 5) if grid_rate(place) >= 0.99 * rate)


def next_place(tried, start, most=8):
    """Where to look next; None where the best of `tried` {place: loss} has both neighbours, or there were enough."""
    if not tried:
        return start
    best = min(tried, key=tried.get)
    if len(tried) >= most:
        return None
    # A rate without a loss is no place to go on from.
    if tried[best] == DIVERGED:
        return min(tried) - 1
    return next((place for place in (best + 1, best - 1) if place not in tried), None)


def best_rate(tried):
    return grid_rate(min(tried, key=tried.get))


# ---- runs ----------------------------------------------------------------------------------------------------------


class Run:
    """What the tables need of a finished run's log.

    `choices`: shares of right choices, before and after, by the log likelihood of whole answers and by its mean a token."""

    def __init__(self, log, other=None, choices=None):
        first, last = log["evaluations"][0], log["evaluations"][-1]
        if first["step"] != 0 or last["step"] != log["steps_done"]:
            raise SystemExit("a run's log has no evaluation before its first step and after its last one")
        self.before, self.loss, self.other, self.choices = first["loss"], last["loss"], other, choices
        if self.loss is None:
            self.loss = DIVERGED
        self.rate = log["options"]["learning_rate"]
        trained = log["trained"]
        self.trained = trained["dense_parameters"] + trained["sparse_parameters"]
        # What the last step kept: with truncated sides a step has no more entries than the core.
        self.entries = trained["dense_parameters"] + log["steps"][-1]["kept_entries"]
        self.peak = log["memory"]["process_peak_bytes"]
        self.phase1_peak = log["phase1"]["memory"]["process_peak_bytes"] if log["phase1"]["steps"] else None
        self.seconds = log["time"]["training_seconds"]
        self.phase1_seconds = log["time"]["phase1_seconds"]
        self.steps, self.tokens, self.data = log["steps_done"], log["tokens"], log["data"]


def right_choices(run):
    return run.choices["after"][0] if run.choices else None


class Study:
    """The runs so far and the tables of them: `tried[kind]` {place: loss}, `runs[kind]` {seed: Run}."""

    def __init__(self, kinds, seeds, search_seeds, other):
        self.kinds, self.seeds, self.search_seeds, self.other = kinds, seeds, search_seeds, other
        self.tried = {kind: {} for kind in kinds}
        self.runs = {kind: {} for kind in kinds}
        self.failed = []
        self.before_other = None

    def pairs(self, kind, against, value):
        own, theirs = self.runs.get(kind, {}), self.runs.get(against, {})
        pairs = [(value(own[seed]), value(theirs[seed])) for seed in self.seeds if seed in own and seed in theirs]
        return [one - other for one, other in pairs if one is not None and other is not None]

    def rate_table(self):
        places = sorted({place for tried in self.tried.values() for place in tried})
        rows = []
        for kind, tried in self.tried.items():
            best = min(tried, key=tried.get) if tried else None
            losses = ["" if p not in tried else "diverged" if tried[p] == DIVERGED else f"{tried[p]:.4f}" for p in places]
            rows.append([KINDS[kind][0], *(f"**{text}**" if p == best else text for p, text in zip(places, losses))])
        return markdown([f"mean validation loss, seeds {', '.join(map(str, self.search_seeds))}", *(f"{grid_rate(p):.0e}".replace("e-0", "e-") for p in places)], rows)

    def frozen(self):
        """{seed: a Run of it}: all that began from a seed's data have the same loss before their first step."""
        found = {}
        for runs in self.runs.values():
            for seed, run in runs.items():
                found.setdefault(seed, run)
        return found

    def loss_table(self):
        frozen = self.frozen()
        rows = [[FROZEN, "", spread([run.before for run in frozen.values()], 4), "", "", "", "0" if self.other else "", str(len(frozen))]]
        for kind, runs in self.runs.items():
            if not runs:
                continue
            against = [self.pairs(kind, other, lambda run: run.loss) if other != kind else [] for other in ("ft", "lora")]
            gains = [run.loss - run.before for run in runs.values()]
            other = [run.other - self.before_other for run in runs.values() if run.other is not None and self.before_other is not None]
            rate = next(iter(runs.values())).rate
            rows.append(
                [KINDS[kind][0], f"{rate:.0e}".replace("e-0", "e-"), spread([run.loss for run in runs.values()], 4), interval(gains, 4)]
                + [interval(values, 4) if values else "" for values in against]
                + [interval(other, 4) if other else "", str(len(runs))]
            )
        titles = ["run", "rate", "validation loss", "minus frozen", "minus ft", "minus LoRA", "other text, after minus before", "seeds"]
        return markdown(titles, rows)

    def choice_table(self):
        """Without rows where no run has choices."""
        rows = []
        for kind, runs in self.runs.items():
            runs = [run for run in runs.values() if run.choices]
            if not runs:
                continue
            if not rows:
                before = [[run.choices["before"][place] for run in self.frozen().values() if run.choices] for place in (0, 1)]
                rows.append([FROZEN, spread(before[0]), "", "", "", spread(before[1])])
            against = [self.pairs(kind, other, right_choices) if other != kind else [] for other in ("ft", "lora")]
            gains = [run.choices["after"][0] - run.choices["before"][0] for run in runs]
            rows.append(
                [KINDS[kind][0], spread([right_choices(run) for run in runs]), interval(gains)]
                + [interval(values) if values else "" for values in against]
                + [spread([run.choices["after"][1] for run in runs])]
            )
        titles = ["right choices", "share", "minus frozen", "minus ft", "minus LoRA", "share by the mean a token"]
        return markdown(titles, rows) if rows else ""

    def control_table(self):
        rows = []
        for kind, against in CONTROLS:
            values = [self.pairs(kind, against, value) for value in (lambda run: run.loss, lambda run: run.other, right_choices)]
            if values[0]:
                rows.append([f"{KINDS[kind][0]} minus {KINDS[against][0]}", *(interval(v, 4) if v else "" for v in values)])
        return markdown(["pairs", "validation loss", "other text", "right choices"], rows) if rows else ""

    def cost_table(self):
        rows = []
        for kind, runs in self.runs.items():
            runs = list(runs.values())
            if not runs:
                continue
            phase1 = [run.phase1_peak for run in runs if run.phase1_peak]
            rows.append(
                [KINDS[kind][0], f"{runs[0].trained:,}", f"{runs[0].entries:,}", mebibytes(max(run.peak for run in runs))]
                + [mebibytes(max(phase1)) if phase1 else "", spread([run.seconds for run in runs], 1)]
                + [spread([run.phase1_seconds for run in runs], 1) if phase1 else ""]
            )
        titles = ["run", "entries that may train", "that a step changes", "peak MiB", "in phase 1", "training, s", "phase 1, s"]
        return markdown(titles, rows)

    def text(self):
        parts = ["Learning rates:", self.rate_table()]
        if any(self.runs.values()):
            parts += ["Mean ± standard deviation over seeds; differences seed by seed, with their 95 % confidence interval (Student's t):"]
            parts += [table for table in (self.loss_table(), self.choice_table(), self.control_table(), self.cost_table()) if table]
            run = next(iter(self.frozen().values()))
            train, held = run.data["train"], run.data["held_out"]
            parts.append(
                f"{train['examples']} training examples of {train['tokens']} tokens ({train['counted']} of answers), "
                f"{held['examples']} held out with {held['counted']} of answers (the first seed's); {run.steps} steps."
            )
            if self.before_other is not None:
                parts.append(f"The loss on the other text is {self.before_other:.4f} before.")
        if self.failed:
            parts += ["Failed:", "\n".join(f"- {text}" for text in self.failed)]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def rows(self):
        names = ["kind", "seed", "rate", "before", "loss", "other_before", "other", "trained", "entries", "peak_bytes"]
        names += ["phase1_peak_bytes", "training_seconds", "phase1_seconds", "steps", "tokens"]
        names += ["choices_before", "choices_before_per_token", "choices", "choices_per_token"]
        rows = [names]
        for kind, tried in self.tried.items():
            rows += [[kind, "search", grid_rate(place), None, loss] for place, loss in sorted(tried.items())]
        for kind, runs in self.runs.items():
            for seed, run in runs.items():
                row = [kind, seed, run.rate, run.before, run.loss, self.before_other, run.other, run.trained, run.entries, run.peak]
                row += [run.phase1_peak, run.seconds, run.phase1_seconds, run.steps, run.tokens]
                rows.append(row + ([*run.choices["before"], *run.choices["after"]] if run.choices else []))
        return rows

    def write(self, output):
        sheet = io.StringIO()
        csv.writer(sheet, lineterminator="\n").writerows(self.rows())
        write_aside(output / "runs.csv", sheet.getvalue())
        write_aside(output / "table.md", self.text())

    def draw(self, target, model, data):
        """Loss against rate, a line a kind."""
        plt = pyplot() if any(self.tried.values()) else None
        if plt is None:
            return
        figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
        for number, (kind, tried) in enumerate(self.tried.items()):
            points = [(grid_rate(place), loss) for place, loss in sorted(tried.items()) if loss != DIVERGED]
            if points:
                axes.plot(*zip(*points), label=KINDS[kind][0], **style(number))
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("validation loss, nats a token; mean over seeds")
        axes.grid(alpha=0.3)
        titled(figure, "Validation loss against learning rate", f"{name_of(model)} on {name_of(data)}", seeds_text(self.search_seeds), 60)
        finish(plt, figure, axes, target)


# ---- other measures of a model -------------------------------------------------------------------------------------


def evaluated(a, model, kept, data, names, *more):
    """Numbers that `evaluate` prints of the model, by their names there; they stay in the file `kept`."""
    stamp = [str(word) for word in (data, *more)]
    found = read_json(kept)
    if isinstance(found, dict) and found.get("options") == stamp:
        return found["values"]
    if not os.path.exists(model):
        raise SystemExit(f"{model} was removed when it had been measured on other data: remove {kept.parent} for a new run, or choose another --output")
    words = ["evaluate", "--model", str(model), "--data", str(data), *more, "--batch-size", "8", "--quiet"]
    words += [word for pair in zip(a.more, a.more[1:]) if pair[0] in ("--dtype", "--chat-template", "--products") for word in pair]
    words += ["--threads", str(a.threads)]
    done = subprocess.run([a.program, *words], stdout=subprocess.PIPE, text=True, check=False, preexec_fn=ends_with_this_process())
    matches = [re.search(rf"^{name} ([-+.\w]+)", done.stdout, re.MULTILINE) for name in names]
    if done.returncode != 0 or None in matches:
        raise SystemExit(f"evaluate ended with status {done.returncode}" + ("" if done.returncode else f", and printed no {' and '.join(names)}"))
    values = [float(match[1]) for match in matches]
    write_aside(kept, json.dumps({"values": values, "options": stamp}))
    return values


def loss_on(a, model, folder):
    """The model's loss on --other."""
    return evaluated(a, model, folder / "other.json", a.other, ["loss"], "--dev-limit", str(a.other_limit))[0]


def choices_of(a, seed, model, folder):
    """The model's shares of right choices of the seed's questions."""
    data = a.questions[seed]
    return evaluated(a, model, folder / "choices.json", data, ["choice_accuracy", "choice_accuracy_per_token"], "--choices", str(a.choices_limit))


def written_once(text, output, stem):
    """A file whose name changes with its content, as results that are kept go by names."""
    file = output / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
    write_aside(file, text)
    return file


def questions_of_seeds(path, seeds, limit, output):
    """{seed: a file of `limit` records of its own}"""
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") + "\n" for line in file if line.strip()]
    if len(lines) < limit * len(seeds):
        raise SystemExit(f"{path} has {len(lines)} records, expected {limit} for each of {len(seeds)} seeds, one a line: --choices-limit")
    parts = [lines[place * limit : (place + 1) * limit] for place in range(len(seeds))]
    return {seed: written_once("".join(part), output, "choices") for seed, part in zip(seeds, parts)}


def chosen_records(path, wheres, output):
    """The data with the records that have FIELD=VALUE for every one of `wheres`; the file itself without any."""
    if not wheres:
        return os.path.abspath(path)
    fields = [where.partition("=")[::2] for where in wheres]
    lines = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise SystemExit(f"{path}, line {number}: {error}; --where needs a file of JSON lines") from None
            if all(str(record.get(name)) == value for name, value in fields):
                lines.append(line if line.endswith("\n") else line + "\n")
    if not lines:
        raise SystemExit(f"{path}: no record has {' and '.join(wheres)}")
    return str(written_once("".join(lines), output, pathlib.Path(path).stem))


# ---- the study -----------------------------------------------------------------------------------------------------


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--program", required=True, help="sparsegrad-llm")
    parser.add_argument("--model", required=True, help="GGUF file or folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="only these records of the data")
    parser.add_argument("--other", help="text of another kind, whose loss is taken before and after")
    parser.add_argument("--other-limit", type=int, default=64)
    parser.add_argument("--choices", help="JSON lines of multiple choice, whose right answers are counted before and after")
    parser.add_argument("--choices-limit", type=int, default=200, help="questions of each seed")
    parser.add_argument("--output", required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS)[:8])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--search-seeds", nargs="+", type=int, default=[1, 2], help="of the search for rates")
    parser.add_argument("--rate", action="append", default=[], metavar="KIND=NUMBER", help="no search for this kind")
    parser.add_argument("--hours", type=float, default=0, help="begin no run after that (0: no limit)")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    parser.add_argument("--any-program", action="store_true", help="take finished runs of other builds of the program, too")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    a = parser.parse_args()
    for seed in {*a.search_seeds} & {*a.seeds}:
        raise SystemExit(f"--seeds and --search-seeds both have {seed}")
    rates = {}
    for text in a.rate:
        kind, _, value = text.partition("=")
        try:
            rates[kind] = float(value)
        except ValueError:
            rates[kind] = 0.0
        if kind not in a.kinds or not 0 < rates[kind] < 1e3:
            raise SystemExit(f"--rate is '{text}', expected KIND=NUMBER with one of --kinds and a positive number")
    a.rates = rates
    return a


def main():
    a = parsed()
    output = pathlib.Path(a.output)
    output.mkdir(parents=True, exist_ok=True)
    data = chosen_records(a.data, a.where, output)
    a.model = os.path.abspath(a.model)
    runner = Runner(a.program, 1, a.threads, [*a.more, "--quiet"], a.any_program)
    a.program = runner.program
    study = Study(a.kinds, a.seeds, a.search_seeds, a.other)
    start = time.monotonic()

    def is_over():
        return a.hours > 0 and time.monotonic() - start > 3600 * a.hours

    def run(kind, rate, seed, folder, *more):
        """The run's log; None where the rate lets the loss become NaN, or the run failed otherwise, which is told."""
        words = ["--model", a.model, "--data", data, *KINDS[kind][1].split(), "--learning-rate", f"{rate:g}"]
        words += ["--seed", str(seed), "--split-seed", str(seed), *more]
        log = runner.run(f"{KINDS[kind][0]}, rate {rate:g}, seed {seed}", words, folder)
        if not isinstance(log, Failed):
            return log
        if not any(word in log.error for word in ("NaN", "Inf", "finite")):
            study.failed.append(f"{KINDS[kind][0]}, rate {rate:g}, seed {seed}: {log.text()}")
        return None

    for kind in [kind for kind in a.kinds if kind not in a.rates]:
        tried = study.tried[kind]
        while not is_over():
            place = next_place(tried, place_of(KINDS[kind][2]))
            if place is None:
                if min(tried.values()) == DIVERGED:
                    study.failed.append(f"{KINDS[kind][0]}: no rate from {grid_rate(min(tried)):g} on has a loss")
                else:
                    a.rates[kind] = best_rate(tried)
                break
            rate, failures = grid_rate(place), len(study.failed)
            folder = output / "rates" / kind / f"{rate:g}"
            logs = [run(kind, rate, seed, folder / str(seed), "--no-save") for seed in a.search_seeds]
            if len(study.failed) > failures:
                break
            tried[place] = DIVERGED if None in logs else statistics.fmean(Run(log).loss for log in logs)
            study.write(output)

    if a.other and not is_over():
        a.other = os.path.abspath(a.other)
        study.before_other = loss_on(a, a.model, output)
    a.questions = questions_of_seeds(a.choices, a.seeds, a.choices_limit, output) if a.choices else {}
    saves = a.other or a.choices
    for seed in a.seeds:
        before = None
        if a.choices and not is_over():
            (output / "frozen" / str(seed)).mkdir(parents=True, exist_ok=True)
            before = choices_of(a, seed, a.model, output / "frozen" / str(seed))
        for kind in a.kinds:
            if kind not in a.rates or is_over():
                continue
            folder = output / "seeds" / kind / f"{a.rates[kind]:g}" / str(seed)
            log = run(kind, a.rates[kind], seed, folder, *([] if saves else ["--no-save"]))
            if log is None:
                continue
            # The best model is the last one: there are two evaluations, and the other one is of the model as it came.
            saved, other, choices = folder / "model", None, None
            if saves and log["best"] and log["best"]["step"] == log["steps_done"]:
                other = loss_on(a, saved, folder) if a.other else None
                choices = {"before": before, "after": choices_of(a, seed, saved, folder)} if a.choices else None
            study.runs[kind][seed] = Run(log, other, choices)
            shutil.rmtree(saved, ignore_errors=True)
            study.write(output)
    study.write(output)
    study.draw(output / "rates.png", a.model, a.data)
    say("\n" + study.text())
    return 1 if study.failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
