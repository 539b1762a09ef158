"""Plots of a grid (grid_cells.Grid). Needs matplotlib."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

from grid_cells import DENSE, KINDS, LORA, MEMORY_PARTS, REFERENCE, crossings

COLOURS = dict(zip(KINDS, ["black", *plt.get_cmap("tab10").colors]))
MARKERS = dict(zip(KINDS, "sovD^P*Xhp"))


def subject(grid, variant):
    """Of which processor, type and library a grid is, and from when."""
    machine = grid.data["machine"]
    return f"{machine['processor']}, {machine['cores']} cores; {variant.title}; {grid.data['date']}"


def save(figure, folder, name, title):
    figure.suptitle(title, y=0.96, verticalalignment="bottom", fontsize=11)
    aside = folder / f"part-{name}"
    figure.savefig(aside, dpi=110, bbox_inches="tight")
    plt.close(figure)
    aside.replace(folder / name)
    return name


def ratio_axes(axes, curves, variable, title, label):
    """One line a kind, with the spread of its rounds as a band, and a ring where it passes the dense step."""
    for kind, curve in curves.items():
        x = [s.cell[variable] for s in curve]
        axes.plot(x, [s.ratio for s in curve], color=COLOURS[kind], marker=MARKERS[kind], markersize=5, label=kind)
        axes.fill_between(x, [s.least for s in curve], [s.most for s in curve], color=COLOURS[kind], alpha=0.12, linewidth=0)
        for at, _ in crossings(curve, variable):
            axes.plot(at, 1, marker="o", markersize=11, fillstyle="none", color=COLOURS[kind])
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2 if variable != "share" else 10)
    axes.set_yscale("log", base=2)
    ticks = sorted({s.cell[variable] for curve in curves.values() for s in curve})
    axes.set_xticks(ticks, [f"{100 * t:g} %" if variable == "share" else str(t) for t in ticks], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label)


def draw_ratios(grid, variant, folder, name, variable, label, panels, kinds):
    """panels: (title, where). Empty ones are left out; no file without any."""
    drawn = []
    for title, where in panels:
        curves = {kind: grid.curve(kind, variable, where) for kind in kinds}
        curves = {kind: curve for kind, curve in curves.items() if len(curve) > 1}
        if curves:
            drawn.append((title, curves))
    if not drawn:
        return []
    figure, axes = plt.subplots(1, len(drawn), figsize=(5.2 * len(drawn), 4.6), squeeze=False, sharey=True)
    for panel, (title, curves) in zip(axes[0], drawn):
        ratio_axes(panel, curves, variable, title, label)
    limits = axes[0][0].get_ylim()
    ticks = [t for t in (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 8) if limits[0] <= t <= limits[1]]
    axes[0][0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[0][0].set_ylim(limits)
    axes[0][0].set_ylabel("time over the dense step's (1: the same)")
    handles = {text: line for panel in axes[0] for line, text in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="lower center", bbox_to_anchor=(0.5, -0.17), ncols=min(3, len(handles)), fontsize=8)
    title = f"A layer's step against the dense one\n{subject(grid, variant)}\nbands: least to most of the rounds; rings: where a line crosses 1"
    return [save(figure, folder, name, title)]


def draw_roofline(grid, variant, folder, shape):
    flops_peak, bytes_peak = grid.peaks[grid.threads]
    tokens = sorted({s.cell["tokens"] for s in grid.taken(DENSE, **{k: v for k, v in grid.where(shape).items() if k != "tokens"})})
    if not tokens:
        return []
    shown = sorted({tokens[0], tokens[-1], 2048 if 2048 in tokens else tokens[len(tokens) // 2]})
    figure, axes = plt.subplots(figsize=(7.5, 5))
    points = []
    for kind in KINDS:
        for size, count in zip((4, 7, 10), shown):
            for s in grid.taken(kind, **grid.where(shape, tokens=count)):
                points.append((s.flops / s.bytes, 1e-9 * s.flops / s.best))
                label = kind if count == shown[-1] else None
                axes.plot(*points[-1], linestyle="", marker=MARKERS[kind], markersize=size, color=COLOURS[kind], alpha=0.8, label=label)
    left, right = min(x for x, _ in points) / 3, max(x for x, _ in points) * 1.5
    corner = flops_peak / bytes_peak
    left = min(left, corner / 2)
    axes.plot([left, corner, right], [1e-9 * bytes_peak * left, 1e-9 * flops_peak, 1e-9 * flops_peak], color="black", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("operations of dense products a byte that must move, FLOP/byte")
    axes.set_ylabel("rate of the dense products, GFLOP/s")
    axes.grid(alpha=0.3, which="both")
    axes.set_title(
        f"{shape[0]} -> {shape[1]}, {grid.threads} threads; small to large: {', '.join(map(str, shown))} tokens\n"
        f"roof: {1e-9 * flops_peak:.0f} GFLOP/s, {1e-9 * bytes_peak:.1f} GB/s, measured in the same rounds",
        fontsize=10,
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return [save(figure, folder, "roofline.png", f"Roofline of a layer's step\n{subject(grid, variant)}")]


def draw_memory(grid, variant, folder, shape):
    steps = [s for kind in KINDS for s in grid.taken(kind, **grid.where(shape))]
    if not steps:
        return []
    figure, axes = plt.subplots(figsize=(9, 4.5))
    start = [0.0] * len(steps)
    for part, colour in zip(MEMORY_PARTS, plt.get_cmap("Set2").colors):
        sizes = [s.memory.get(part, 0) / 2**20 for s in steps]
        axes.barh(range(len(steps)), sizes, left=start, color=colour, label=part.replace("_", " "))
        start = [x + y for x, y in zip(start, sizes)]
    axes.set_yticks(range(len(steps)), [s.kind for s in steps], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"MiB held by one layer, {shape[0]} -> {shape[1]}, 2048 tokens, 1 % kept, rank 64")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return [save(figure, folder, "memory.png", f"Memory that a layer holds, by part\n{subject(grid, variant)}")]


def draw(grid, folder, variant):
    """Writes the plots that the cells allow; gives their names."""
    shapes = grid.shapes()
    sparse = [k for k in KINDS if k != DENSE]
    all_tokens = sorted({s.cell["tokens"] for s in grid.steps})

    def panels(variable):
        return [
            (f"{i} -> {o}" + (f", {tokens} tokens" if variable != "tokens" else ""), grid.where((i, o), tokens=tokens))
            for i, o in shapes
            for tokens in (all_tokens if variable != "tokens" else all_tokens[:1])
        ]

    rank_kinds = [k for k in KINDS if " r," in k]
    written = draw_ratios(grid, variant, folder, "tokens.png", "tokens", "tokens a step", panels("tokens"), sparse)
    written += draw_ratios(grid, variant, folder, "rank.png", "rank", "rank r", panels("rank"), [*rank_kinds, LORA])
    written += draw_ratios(grid, variant, folder, "share.png", "share", "entries kept, of the weight", panels("share"), [k for k in sparse if k != REFERENCE])
    written += draw_ratios(grid, variant, folder, "micro_batches.png", "micro_batches", "micro-batches a step", panels("micro_batches"), sparse)
    written += draw_roofline(grid, variant, folder, shapes[0])
    written += draw_memory(grid, variant, folder, shapes[0])
    return written
