#!/usr/bin/env python3
"""GLUE tasks x kinds of runs x seeds, as one table.

glue_bench.py --program P --model DIR --data DIR --output DIR --tasks cola mrpc --kinds ft lora sparse-best
              [--seeds 42 3705 2023] [--rate ft=5e-5]... [--baseline ft] [-- option of train...]

Runs what is missing: a finished run is read from disk, one that was ended (kill -9 included) goes on from its last state,
one whose options differ is made anew. Writes table.md and table.csv (mean and standard deviation over seeds, average
over tasks, steps/s, true peak memory), paired differences from the baseline with their 95 % confidence intervals, and
metric_and_cost.png, curves_TASK.png.
"""

import argparse
import csv
import pathlib
import statistics
import sys

from glue_runs import KINDS, Runner, best_of, draw_curves, interval, markdown, pyplot, say, spread


def rates_of(texts):
    rates = {}
    for text in texts:
        kind, _, value = text.partition("=")
        if kind not in KINDS or not value:
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
            panel.scatter([cost], [metric], color=f"C{number}", label=KINDS[kind]["title"])
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="sparsegrad-glue")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", help="GLUE folder (default: $SPARSEGRAD_GLUE_DIR)")
    parser.add_argument("--output", required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", required=True, choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 3705, 2023])
    parser.add_argument("--rate", action="append", default=[], help="KIND=NUMBER, in place of the known learning rate")
    parser.add_argument("--baseline", help="kind that the others are compared with (default: the first)")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps that a kill costs at most")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (with --threads 1, say)")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: all")
    parser.add_argument("--keep-models", action="store_true", help="keep the best model of every run")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    a = parser.parse_args()
    rates = {kind: KINDS[kind]["rate"] for kind in a.kinds} | rates_of(a.rate)
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
                options += KINDS[kind]["options"].split()
                options += ["--learning-rate", f"{rates[kind]:g}", "--seed", str(seed)]
                title = f"{task}, {KINDS[kind]['title']}, seed {seed}"
                wanted.append((title, options, output / "runs" / task / kind / f"seed-{seed}"))
    finished = iter(runner.run_all(wanted))
    logs = {(task, kind): [next(finished) for _ in a.seeds] for task in a.tasks for kind in a.kinds}
    score = {key: [100 * best_of(log) for log in runs] for key, runs in logs.items()}

    titles = ["run", "learning rate", *a.tasks, "average", "steps/s", "peak MiB"]
    rows, means = [], {}
    for kind in a.kinds:
        runs = [log for task in a.tasks for log in logs[task, kind]]
        steps = statistics.fmean(log["time"]["steps_per_second"] for log in runs)
        peak = max(log["memory"]["process_peak_bytes"] for log in runs) / 2**20
        average = statistics.fmean(statistics.fmean(score[task, kind]) for task in a.tasks)
        means[kind] = (average, steps, peak)
        rows.append([KINDS[kind]["title"], f"{rates[kind]:g}", *(spread(score[task, kind], 2) for task in a.tasks)])
        rows[-1] += [f"{average:.2f}", f"{steps:.2f}", f"{peak:.0f}"]
    pair_titles = [f"minus {KINDS[baseline]['title']}", *a.tasks]
    pair_rows = []
    for kind in a.kinds:
        if kind == baseline:
            continue
        pairs = [[x - y for x, y in zip(score[task, kind], score[task, baseline])] for task in a.tasks]
        pair_rows.append([KINDS[kind]["title"], *(interval(pair, 2) for pair in pairs)])
    metrics = {task: next((log["best"]["metric"] for log in logs[task, baseline] if log["best"]), "?") for task in a.tasks}
    text = f"Best value on dev x 100, seeds {a.seeds}, ± standard deviation; {metrics}\n\n"
    text += markdown(titles, rows) + "\n"
    text += "Paired by seed, with the 95 % confidence interval of the mean:\n\n" + markdown(pair_titles, pair_rows)

    files = [output / "table.md", output / "table.csv"]
    files[0].write_text(text)
    with files[1].open("w", newline="") as sheet:
        csv.writer(sheet).writerows([titles, *rows, [], pair_titles, *pair_rows])
    files.append(draw_costs(means, output / "metric_and_cost.png"))
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
