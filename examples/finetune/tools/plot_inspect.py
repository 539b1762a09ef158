#!/usr/bin/env python3
"""Draws what `sparsegrad-glue inspect` measured: plot_inspect.py FOLDER

FOLDER holds inspect.json and the .npy files that it names. Writes energy_shares.png and one heat map a drawn matrix
(gradient_<matrix>.png) there and prints their names. Exit status 3: matplotlib or numpy is missing.
"""

import collections
import json
import pathlib
import sys
import textwrap

from glue_plots import data_of, model_of, titled
from glue_runs import run_tool, say

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
except ImportError:
    print("plots: Python's matplotlib is missing (scripts/setup.sh --python installs it)", file=sys.stderr)
    sys.exit(3)


def subject(data):
    return f"{model_of(data)} on {data_of(data)}"


def draw_shares(data, target):
    """Horizontal bars: mean share of energy in the top k for each space, up and down; dots for the layers."""
    spaces = data["spaces"][::-1]
    rows = np.arange(len(spaces))
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(spaces) + 1.5))
    for offset, kind, colour in ((0.2, "up", "tab:blue"), (-0.2, "down", "tab:orange")):
        axes.barh(rows + offset, [s["mean"][kind] for s in spaces], 0.36, color=colour, alpha=0.75, label=kind)
        for row, space in zip(rows, spaces):
            axes.plot(space[kind], np.full(len(space[kind]), row + offset), "k.", markersize=3)
    axes.set_yticks(rows, [s["name"] for s in spaces])
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        f"share (0 to 1) of a gradient's energy in its {data['kept_entries']} largest entries\n"
        f"step {data['measured_step']}; bars: mean over layers, dots: each layer"
    )
    # Below the names, where it hides no bar.
    figure.legend(loc="lower left", ncols=2, title="MLP matrix", fontsize="small", title_fontsize="small")
    titled(figure, "Energy of gradients in few entries, by basis", subject(data), width=90)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def draw_pictures(matrix, pictures, data, target):
    """One heat map of log10 |g| a space, on one colour scale."""
    names = {space["key"]: space["name"] for space in data["spaces"]}
    columns = min(4, len(pictures))
    lines = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.2 * columns + 1, 3.4 * lines + 0.6), squeeze=False, layout="constrained"
    )
    # Few entries are far from the others: from those the colours would tell nothing of the rest.
    entries = np.concatenate([values.ravel() for _, values in pictures])
    entries = entries[np.isfinite(entries) & (entries > 0)]
    low, top = np.log10(np.percentile(entries, (1, 99.9))) if entries.size else (-1.0, 0.0)
    top = max(top, low + 1e-3)
    image = None
    for panel, (space, values) in zip(axes.flat, pictures):
        # Zeros have no logarithm; they get the darkest colour.
        image = panel.imshow(
            np.log10(np.maximum(values, 10.0 ** (low - 1))), vmin=low, vmax=top, cmap="magma", aspect="auto"
        )
        # A title that is wider than its panel would run into the next one.
        panel.set_title(textwrap.fill(names.get(space, space), 32), fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    for panel in list(axes.flat)[len(pictures) :]:
        panel.axis("off")
    titled(figure, f"Gradient of {matrix} at step {data['measured_step']}, by basis", subject(data), width=30 * columns)
    figure.supxlabel("input side, from the first to the last column", fontsize="small")
    figure.supylabel("output side, from the first to the last row", fontsize="small")
    label = "log10 of entries' magnitude\n(root mean square of blocks)"
    figure.colorbar(image, ax=list(axes.flat), shrink=0.8, extend="both", label=label)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    data = json.loads((folder / "inspect.json").read_text(encoding="utf-8"))
    written = [folder / "energy_shares.png"]
    draw_shares(data, written[0])
    matrices = collections.defaultdict(list)
    for picture in data["pictures"]:
        layer, kind, space = picture["name"].split("_", 2)
        matrices[f"{layer} {kind}"].append((space, np.load(folder / picture["file"])))
    for matrix, pictures in matrices.items():
        target = folder / f"gradient_{matrix.replace(' ', '_')}.png"
        draw_pictures(matrix, pictures, data, target)
        written.append(target)
    for path in written:
        say(f"plot: {path}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
