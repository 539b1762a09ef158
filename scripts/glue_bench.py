#!/usr/bin/env python3
"""GLUE tasks x kinds of runs x seeds, as one table.

glue_bench.py --program P --model DIR --data DIR --output DIR --tasks cola mrpc --kinds ft lora sparse-best
              [--seeds 42 3705 2023] [--rate ft=5e-5]... [--baseline ft] [-- option of train...]
glue_bench.py --file bench.json

A kind may be changed by options: sparse-paper+n-params=100000, sparse-best+refresh-every=0, sparse-paper+rotated-bias. In a
file stand the same words as on the command line, {"tasks": ["cola"], "rate": ["ft=5e-5"], "more": ["--epochs", "2"]}; the
command line has precedence.

Runs what is missing: a finished run is read from disk, one that was ended (kill -9 included) goes on from its last state,
one whose options differ is made anew. Writes table.md and table.csv (mean and standard deviation over seeds, average
over tasks, steps/s, true peak memory), paired differences from the baseline with their 95 % confidence intervals, and
metric_and_cost.png, curves_TASK.png and, where a kind ran with several shares of kept entries, sparsity.png.
"""

import argparse
import csv
import json
import pathlib
import statistics
import sys

from glue_runs import BATCH, KINDS, Runner, best_of, draw_curves, interval, kind_of, markdown, pyplot, say, spread


def rates_of(texts):
    rates = {}
    for text in texts:
        kind, _, value = text.rpartition("=")
        if kind_of(kind) is None or not value:
            raise SystemExit(f"--rate is '{text}', expected KIND=NUMBER with a kind of {', '.join(KINDS)}")
        rates[kind] = float(value)
    return rates


def draw_costs(means, target):
    """The average metric against peak memory and against steps/s; a point a kind."""
    plt = pyplot()
    if plt is None:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for number, (kind, (metric, steps, peak)) in enumerate(means.items()):
        for panel, cost in zip(axes, (peak, steps)):
            panel.scatter([cost], [metric], color=f"C{number % 10}", label=kind_of(kind)["title"])
    axes[0].set_xlabel("peak memory of training, MiB")
    axes[1].set_xlabel("steps/s")
    axes[0].set_ylabel("metric, mean over tasks and seeds")
    for panel in axes:
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


def draw_sparsity(means, logs, tasks, target):
    """The average metric against the share of entries kept: a line for every kind that ran with more than one."""
    lines = {}
    for kind, (metric, _, _) in means.items():
        share = logs[tasks[0], kind][0]["options"].get("sparse", {}).get("share")
        if share:
            lines.setdefault(kind_of(kind)["base"], []).append((100 * share, metric))
    lines = {base: sorted(points) for base, points in lines.items() if len({share for share, _ in points}) > 1}
    plt = pyplot() if lines else None
    if plt is None:
        return None
    figure, axes = plt.subplots(figsize=(6, 4.2))
    for base, points in lines.items():
        axes.plot(*zip(*points), marker="o", label=KINDS[base]["title"])
    if "ft" in means:
        axes.axhline(means["ft"][0], color="gray", linestyle="--", label="ft")
    axes.set_xscale("log")
    axes.set_xlabel("entries kept, % of a matrix")
    axes.set_ylabel("metric, mean over tasks and seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


def words_of(path):
    """A file's words as those of a command line, and its further options of train."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise SystemExit(f"{path}: expected an object")
    words, more = [], []
    for name, value in content.items():
        values = [str(v) for v in (value if isinstance(value, list) else [value])]
        if name == "more":
            more = values
        elif name == "rate":
            words += [word for v in values for word in ("--rate", v)]
        elif value is True:
            words.append(f"--{name}")
        elif value is not False:
            words += [f"--{name}", *values]
    return words, more


def command_line():
    """The words of the command line, behind those of the file that it names."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    own, more = words[:cut], words[cut + 1 :]
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--file")
    known, rest = early.parse_known_args(own)
    if known.file:
        words, file_more = words_of(known.file)
        own, more = [*words, *rest], [*file_more, *more]
    return [*own, *(["--", *more] if more else [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="sparsegrad-glue")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", help="GLUE folder (default: $SPARSEGRAD_GLUE_DIR)")
    parser.add_argument("--output", required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--file", help="JSON file with the words of a command line")
    parser.add_argument("--kinds", nargs="+", required=True, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 3705, 2023])
    parser.add_argument("--rate", action="append", default=[], help="KIND=NUMBER, in place of the known learning rate")
    parser.add_argument("--baseline", help="kind that the others are compared with (default: the first)")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps that a kill costs at most")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (with --threads 1, say)")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    parser.add_argument("--keep-models", action="store_true", help="keep the best model of every run")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    a = parser.parse_args(command_line())
    for kind in a.kinds:
        if kind_of(kind) is None:
            raise SystemExit(f"--kinds has '{kind}', expected {', '.join(KINDS)}, or one of these with +option=value")
    rates = {kind: kind_of(kind)["rate"] for kind in a.kinds} | rates_of(a.rate)
    baseline = a.baseline or a.kinds[0]
    if baseline not in a.kinds:
        raise SystemExit(f"--baseline is '{baseline}', expected one of --kinds: {', '.join(a.kinds)}")
    output = pathlib.Path(a.output)
    more = [*a.more, "--checkpoint-every", str(a.checkpoint_every), *([] if a.keep_models else ["--no-save"])]
    runner = Runner(a.program, a.jobs, a.threads, more)

    wanted = []
    for task in a.tasks:
        for kind in a.kinds:
            for seed in a.seeds:
                options = ["--task", task, "--model", a.model, *(["--data", a.data] if a.data else [])]
                options += [*kind_of(kind)["options"].split(), "--batch-size", BATCH]
                options += ["--learning-rate", f"{rates[kind]:g}", "--seed", str(seed)]
                title = f"{task}, {kind_of(kind)['title']}, seed {seed}"
                wanted.append((title, options, output / "runs" / task / kind / f"seed-{seed}"))
    finished = iter(runner.run_all(wanted))
    logs = {(task, kind): [next(finished) for _ in a.seeds] for task in a.tasks for kind in a.kinds}
    score = {key: [100 * best_of(log) for log in runs] for key, runs in logs.items()}

    titles = ["run", "learning rate", *a.tasks, "average", "steps/s", "peak MiB", "in phase 1"]
    rows, means = [], {}
    for kind in a.kinds:
        runs = [log for task in a.tasks for log in logs[task, kind]]
        steps = statistics.fmean(log["time"]["steps_per_second"] for log in runs)
        peak = max(log["memory"]["process_peak_bytes"] for log in runs) / 2**20
        first = max((log["phase1"]["memory"]["process_peak_bytes"] for log in runs if log["phase1"]["steps"]), default=0)
        average = statistics.fmean(statistics.fmean(score[task, kind]) for task in a.tasks)
        means[kind] = (average, steps, peak)
        rows.append([kind_of(kind)["title"], f"{rates[kind]:g}", *(spread(score[task, kind], 2) for task in a.tasks)])
        rows[-1] += [f"{average:.2f}", f"{steps:.2f}", f"{peak:.0f}", f"{first / 2**20:.0f}" if first else ""]
    pair_titles = [f"minus {kind_of(baseline)['title']}", *a.tasks]
    pair_rows = []
    for kind in a.kinds:
        if kind == baseline:
            continue
        pairs = [[x - y for x, y in zip(score[task, kind], score[task, baseline])] for task in a.tasks]
        pair_rows.append([kind_of(kind)["title"], *(interval(pair, 2) for pair in pairs)])
    metrics = {task: next((log["best"]["metric"] for log in logs[task, baseline] if log["best"]), "?") for task in a.tasks}
    text = f"Best value on dev x 100, seeds {a.seeds}, ± standard deviation; {metrics}\n\n"
    text += markdown(titles, rows) + "\n"
    text += "Paired by seed, with the 95 % confidence interval of the mean:\n\n" + markdown(pair_titles, pair_rows)

    files = [output / "table.md", output / "table.csv"]
    files[0].write_text(text)
    with files[1].open("w", newline="") as sheet:
        csv.writer(sheet).writerows([titles, *rows, [], pair_titles, *pair_rows])
    files.append(draw_costs(means, output / "metric_and_cost.png"))
    files.append(draw_sparsity(means, logs, a.tasks, output / "sparsity.png"))
    for task in a.tasks:
        runs = {kind: logs[task, kind] for kind in a.kinds}
        files.append(draw_curves(runs, metrics[task], output / f"curves_{task}.png"))
    say("\n" + text)
    say("Files: " + ", ".join(str(file) for file in files if file))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
