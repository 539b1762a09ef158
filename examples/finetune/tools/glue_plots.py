"""The plots of glue_bench.py, main_job.py, llm_demo.py and llm_study.py, and their titles, which say of which model and data
they are. Each function that draws returns the file, or None where matplotlib is missing."""

import pathlib
import textwrap

from glue_runs import say

# Twelve kinds can be told apart, in grey, too; further ones have the same with other lines.
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf"]
COLOURS += ["#8c564b", "#e377c2", "#000000", "#808000", "#7f7f7f", "#f2c200"]
MARKERS = "osD^vPX<>*pd"
LINES = ["-", "--", ":", "-."]


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


def style(number):
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLOURS) % len(LINES)],
        "markeredgecolor": "black",
        "markeredgewidth": 0.5,
    }


def wrapped(title):
    return textwrap.fill(title, 34)


def plain(text):
    """A text that matplotlib shows as it is: a name may have dollar signs, which begin a formula, and bytes that are no text."""
    return text.encode("utf-8", "replace").decode().replace("$", "\\$")


def name_of(path):
    """A file's or folder's name; with that of the run where it is a run's "model"."""
    path = pathlib.PurePath(path)
    return f"{path.parent.name}/{path.name}" if path.name == "model" and path.parent.name else path.name


def model_of(log):
    """The model of a run.json or inspect.json: "minilm (6 layers of width 384)"."""
    model = log.get("model", {})
    name = name_of(model.get("directory") or model.get("path") or log.get("options", {}).get("model") or "a model")
    return f"{name} ({model['layers']} layers of width {model['hidden']})" if "layers" in model else name


def data_of(log, name=None):
    """The data that a run was trained on: "cola (8551 training examples)"."""
    data = log.get("data", {})
    train = data.get("train", {})
    if name is None:
        name = data.get("task") or log.get("options", {}).get("task") or name_of(train.get("file") or "data")
        if data.get("source") == "builtin":
            name = "the built-in sentences"
    return f"{name} ({train['examples']} training examples)" if "examples" in train else name


def loss_unit(log):
    """Cross-entropy in nats, of an example or of a language model's token; STS-B's scores have squared errors."""
    task = log.get("options", {}).get("task")
    return "squared error" if task == "stsb" else "nats an example" if task else "nats a token"


def seeds_text(seeds):
    seeds = sorted(seeds)
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else "one run each"


def titled(figure, what, subject, remark="", width=100):
    """What the plot shows, of which model and data, and how to read it."""
    lines = [*textwrap.wrap(plain(f"{what}: {subject}"), width, break_on_hyphens=False), remark]
    figure.suptitle("\n".join(filter(None, lines)), fontsize="medium")


def finish(plt, figure, axes, target):
    """The legend stands to the right of the last axes, so that it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    # Of a point with error bars the point alone.
    handles = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, fontsize="small", labelspacing=0.7
    )
    figure.savefig(target, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return target


def draw_costs(points, target, subject, metric_name, seeds):
    """The metric against peak memory and against steps/s; a point a kind.

    points: {title: (metric x 100, its deviation over seeds, peak in MiB, steps/s, its deviation)}"""
    plt = pyplot() if points else None
    if plt is None:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for number, (title, (metric, metric_error, peak, steps, steps_error)) in enumerate(points.items()):
        look = {**style(number), "linestyle": "none", "markersize": 8, "elinewidth": 1, "capsize": 3}
        axes[0].errorbar([peak], [metric], yerr=[metric_error], **look)
        axes[1].errorbar([steps], [metric], yerr=[metric_error], xerr=[steps_error], label=wrapped(title), **look)
    axes[0].set_xlabel("peak memory of training, MiB (less is better)")
    axes[1].set_xlabel("steps/s without evaluation (more is better)")
    axes[0].set_ylabel(f"{metric_name} on dev, x 100")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.margins(0.08)
    titled(figure, "Quality against memory and speed", subject, spread_text(seeds))
    return finish(plt, figure, axes[1], target)


def spread_text(seeds):
    return seeds_text(seeds) + ("; bars: standard deviation over seeds" if len(seeds) > 1 else "")


def share_ticks(low, high):
    """1, 2, 5, 10, 20, ... per cent between the ends; the neighbours beyond are let in where there are few."""
    steps = [mantissa * 10.0**power for power in range(-4, 3) for mantissa in (1, 2, 5)]
    inside = [value for value in steps if low / 1.3 <= value <= high * 1.3 and value <= 100]
    return inside if len(inside) > 1 else [low, high]


def draw_sparsity(lines, references, target, subject, metric_name, seeds):
    """The metric against the share of entries kept.

    lines: {title: [(per cent, metric x 100, its deviation over seeds), ...]}; references: {title: metric} as level lines"""
    plt = pyplot() if lines else None
    if plt is None:
        return None
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for number, (title, points) in enumerate(lines.items()):
        shares, metrics, errors = zip(*sorted(points))
        axes.errorbar(shares, metrics, yerr=errors, capsize=3, elinewidth=1, label=wrapped(title), **style(number))
    for number, (title, metric) in enumerate(references.items(), len(lines)):
        axes.axhline(metric, color=COLOURS[number % len(COLOURS)], linestyle="--", label=wrapped(title))
    shares = [share for points in lines.values() for share, _, _ in points]
    axes.set_xscale("log")
    axes.set_xticks(share_ticks(min(shares), max(shares)), minor=False)
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(plt.NullFormatter())
    axes.set_xlabel("entries that a step keeps, % of a matrix")
    axes.set_ylabel(f"{metric_name} on dev, x 100")
    titled(figure, "Quality against entries kept", subject, spread_text(seeds), 60)
    axes.grid(alpha=0.3)
    return finish(plt, figure, axes, target)


def over_seeds(curves):
    """Steps, and mean, least and largest value at each of them, of the runs that have it."""
    steps = sorted({step for curve in curves for step, _ in curve})
    at = {step: [] for step in steps}
    for curve in curves:
        for step, value in curve:
            at[step].append(value)
    means = [sum(at[step]) / len(at[step]) for step in steps]
    return steps, means, [min(at[step]) for step in steps], [max(at[step]) for step in steps]


def loss_curve(log):
    """Exponential mean of the training loss."""
    points, smooth = [], None
    for record in log["steps"]:
        loss = record["mean_loss"]
        # A loss that is no number is null in the log.
        if loss is not None:
            smooth = loss if smooth is None else 0.8 * smooth + 0.2 * loss
            points.append((record["step"], smooth))
    return points


def metric_curve(log):
    name = log["best"]["metric"] if log["best"] else None
    return [(e["step"], e["metrics"].get(name) or 0.0) for e in log["evaluations"]]


def draw_curves(runs, metric_name, target, curve_of_dev=metric_curve, data_name=None):
    """Training loss and dev metric against steps; a line a kind. runs: {title: [log of each seed, ...]}. `data_name` where the
    logs name a file that says less."""
    plt = pyplot() if any(runs.values()) else None
    if plt is None:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for number, (title, logs) in enumerate(runs.items()):
        look = style(number)
        for panel, curve_of in zip(axes, (loss_curve, curve_of_dev)):
            curves = [curve for curve in map(curve_of, logs) if curve]
            if not curves:
                continue
            steps, means, low, high = over_seeds(curves)
            # Some ten markers a line, whatever the number of its points; not those of the other lines.
            every = max(1, len(steps) // 10)
            start = number % every
            panel.plot(
                steps, means, linewidth=1.4, markersize=5, markevery=(start, every), label=wrapped(title), **look
            )
            if len(curves) > 1:
                panel.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    logs = [log for of_kind in runs.values() for log in of_kind]
    metric = f"{metric_name} on dev" if curve_of_dev is metric_curve else f"{metric_name}, {loss_unit(logs[0])}"
    axes[0].set_ylabel(f"training loss, {loss_unit(logs[0])}; exponential mean")
    axes[1].set_ylabel(metric)
    for panel in axes:
        panel.set_xlabel("optimizer step")
        panel.grid(alpha=0.3)
    remark = seeds_text({log["options"]["seed"] for log in logs if "seed" in log.get("options", {})})
    if max(map(len, runs.values())) > 1:
        remark += "; lines: mean over seeds, bands: least to largest"
    titled(figure, f"Training loss and {metric_name}", f"{model_of(logs[0])} on {data_of(logs[0], data_name)}", remark)
    return finish(plt, figure, axes[1], target)
