"""Figures of a campaign, from its tables: readable on paper and without colour (markers, line styles, hatches, direct labels)."""

from __future__ import annotations

import io
import re
from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from epsilon.plots import FILLS, HATCHES, INK, SERIES
from epsilon.report.results import technique_order

__all__ = [
    "bars_by_dataset",
    "bound_points",
    "curves_by_rate",
    "curves_by_setting",
    "exit_bars",
    "heat_map",
    "inline_svg",
    "laid_out",
    "pareto",
    "png",
    "roc_curves",
    "svg",
    "titled",
]

#: Most curves in one panel: more cannot be told apart, so a page's tables have the rest.
CURVES = len(SERIES)
PANEL = (4.4, 3.5)


def curves_by_rate(table: pd.DataFrame, techniques: list[str]) -> Figure:
    """Draw accuracy by fault rate, a panel per network and multiplier, a curve and its interval per technique."""
    panels = [(f"{network}, {shown}", group) for (network, shown), group in table.groupby(["network", "shown"], sort=True)]
    figure, axes = _panels(len(panels))
    for place, (title, group) in zip(axes, panels, strict=True):
        for technique, look in zip(techniques, SERIES, strict=False):
            _curve(place, group[group.technique == technique], "rate", technique, look)
        free = group.fault_free.iloc[0]
        place.axhline(free, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        place.annotate(
            "fault-free",
            (1, free),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
        _rate_axis(place, group.rate.max())
        _accuracy_axis(place, title)
    _legend(figure, axes[0])
    return figure


def curves_by_setting(table: pd.DataFrame, setting: str) -> Figure:
    """Draw accuracy by gamma or alpha, a panel per network and technique, a curve and its interval per multiplier."""
    panels = [(f"{network}: {name}", group) for (network, name), group in table.groupby(["network", "technique"], sort=True)]
    figure, axes = _panels(len(panels))
    names = sorted(table.shown.unique())[:CURVES]
    for place, (title, group) in zip(axes, panels, strict=True):
        for name, look in zip(names, SERIES, strict=False):
            _curve(place, group[group.shown == name], setting, name, look)
        place.set_xlabel({"gamma": "confidence threshold gamma", "alpha": "layer importance alpha"}[setting])
        _accuracy_axis(place, title)
    _legend(figure, axes[0])
    return figure


def bars_by_dataset(table: pd.DataFrame, column: str, label: str, techniques: list[str], *, unit: str = "") -> Figure:
    """Draw the mean cost per image, a panel per multiplier, a group of bars per network, a bar per technique."""
    panels = list(table.groupby("shown", sort=True))
    most = max(group.network.nunique() for _, group in panels)
    width = max(PANEL[0], 0.34 * most * len(techniques) + 1.2)
    figure, axes = _panels(len(panels), width=width)
    for place, (title, group) in zip(axes, panels, strict=True):
        networks = sorted(group.network.unique())
        values = group.set_index(["network", "technique"])[column]
        for index, technique in enumerate(techniques):
            heights = np.array([values.get((network, technique), np.nan) for network in networks], dtype=float)
            x = np.arange(len(networks)) + (index - (len(techniques) - 1) / 2) * 0.8 / len(techniques)
            bars = place.bar(
                x,
                heights,
                width=0.8 / len(techniques),
                color=FILLS[index % len(FILLS)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor=INK,
                linewidth=0.7,
                label=technique,
            )
            texts = ["" if np.isnan(height) else EngFormatter(unit, places=_places(height))(height) for height in heights]
            place.bar_label(bars, texts, fontsize=7, rotation=90, padding=2)
        places = group.drop_duplicates("network").set_index("network").dataset
        place.set_xticks(range(len(networks)), [f"{places.get(name, '')}\n{name}" for name in networks], fontsize=8)
        place.set_xlim(-0.55, len(networks) - 0.45)
        place.margins(y=0.22)
        place.yaxis.set_major_formatter(EngFormatter(unit))
        place.set_ylabel(label)
        place.set_title(title, fontsize=10, loc="left")
    _legend(figure, axes[0])
    return figure


def heat_map(table: pd.DataFrame) -> Figure:
    """Draw the accuracy lost by layer and stuck bit, value and interval (points) written into every cell."""
    layers = table.sort_values("order").layer.drop_duplicates().tolist()
    bits = sorted(table.bit.unique(), reverse=True)
    figure, (axes,) = _panels(1, width=1.05 * len(bits) + 2.4, height=0.42 * len(layers) + 1.5)
    grid = np.full((len(layers), len(bits)), np.nan)
    top = max(1e-9, -float(table.loss.min()))
    for line in table.itertuples():
        row, column = layers.index(line.layer), bits.index(line.bit)
        grid[row, column] = max(0.0, -line.loss)
        dark = grid[row, column] > top / 2
        text = f"{100 * line.loss:+.1f}\n[{100 * line.loss_low:+.1f}, {100 * line.loss_high:+.1f}]"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else INK)
    edges = np.arange(len(bits) + 1) - 0.5, np.arange(len(layers) + 1) - 0.5
    axes.pcolormesh(*edges, np.nan_to_num(grid), cmap="Greys", vmin=0, vmax=top)
    axes.invert_yaxis()
    axes.set_xticks(range(len(bits)), [f"bit {bit}" + (" (sign)" if bit == 7 else "") for bit in bits], fontsize=8)
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.tick_params(length=0)
    first = table.iloc[0]
    axes.set_title(
        f"{first.network}, {first.shown}: accuracy minus fault-free, points\n(stuck at {first.polarity}, "
        f"{100 * first.rate:g} % of a layer's weights, {first.technique})",
        fontsize=9,
        loc="left",
    )
    return figure


def exit_bars(table: pd.DataFrame) -> Figure:
    """Draw which exits answered, a panel per network and multiplier, a stacked bar per technique."""
    panels = [(f"{network}, {shown}", group) for (network, shown), group in table.groupby(["network", "shown"], sort=True)]
    most = max(group.technique.nunique() for _, group in panels)
    figure, axes = _panels(len(panels), width=5.2, height=0.34 * most + 1.3)
    for place, (title, group) in zip(axes, panels, strict=True):
        names = technique_order(group.technique)
        left = np.zeros(len(names))
        for number, here in group.groupby("exit"):
            shares = here.set_index("technique").share.reindex(names).fillna(0).to_numpy()
            look = {"color": FILLS[(number - 1) % len(FILLS)], "hatch": HATCHES[(number - 1) % len(HATCHES)], "edgecolor": INK}
            place.barh(names, shares, left=left, linewidth=0.7, height=0.7, label=f"exit {number}", **look)
            for y, (share, start) in enumerate(zip(shares, left, strict=True)):
                if share > 0.08:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                    place.text(start + share / 2, y, f"{100 * share:.0f} %", ha="center", va="center", fontsize=7, bbox=box)
            left += shares
        place.set_ylim(most - 0.4, -0.6)
        place.set_xlim(0, 1)
        place.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        place.tick_params(labelsize=8)
        place.set_xlabel("share of the images")
        place.set_title(title, fontsize=10, loc="left")
    _legend(figure, axes[int(np.argmax([group.exit.max() for _, group in panels]))])
    return figure


def roc_curves(roc: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Draw the ROC of the pattern score, and what share of the faulty layers stays below each threshold; a curve per fault rate."""
    figure, (left, right) = _panels(2)
    looks = [(colour, marker, style) for style in ("-", "--") for colour, marker, _ in SERIES]
    for (names, group), (colour, marker, style) in zip(roc.groupby(["site", "rate"]), looks, strict=False):
        label = f"{names[0]}, {100 * names[1]:g} %: {group.faulty.iloc[0]} faulty layers"
        line = {"color": colour, "marker": marker, "linestyle": style, "markersize": 4, "linewidth": 1.4}
        known = group[group.false_alarms.notna()]
        if len(known):
            left.plot(known.false_alarms, known.detected, label=f"{label}, area {group.area.iloc[0]:.2f}", **line)
        shown = group[np.isfinite(group.threshold) & (group.threshold >= 0)].sort_values("threshold")
        right.step(shown.threshold, 1 - shown.detected, where="post", label=label, **line)
        right.fill_between(
            shown.threshold, 1 - shown.detected_high, 1 - shown.detected_low, step="post", color=colour, alpha=0.12, linewidth=0
        )
    left.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    left.set(xlabel="false alarms (share of healthy layers)", ylabel="detected (share of faulty layers)")
    left.set_title("ROC of the pattern score (Eq. 6)", fontsize=10, loc="left")
    low, high = scores.threshold.min(), scores.threshold.max()
    right.axvspan(low, high, facecolor="none", edgecolor="#8a949e", hatch="////", linewidth=0.5)
    right.annotate("T_l of the layers", ((low + high) / 2, 1.02), ha="center", va="bottom", fontsize=7)
    right.set(xlabel="threshold of the pattern score", ylabel="missed (share of faulty layers)", ylim=(-0.03, 1.12))
    right.set_title("Missed faults by threshold", fontsize=10, loc="left")
    for axes in (left, right):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(color="#d8dee4", linewidth=0.6)
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.16))
    return figure


def bound_points(table: pd.DataFrame, techniques: list[str]) -> Figure:
    """Draw the bounds of Eq. 8 and 9 as lines over the fault rate, and the measured rates as points with intervals."""
    figure, axes = _panels(2)
    pairs = (
        ("missed", "bound_missed", "faulty layers missed by a check", "Eq. 8: P_md"),
        ("error", "bound_error", "images answered wrong", "Eq. 9: P_error"),
    )
    for place, (column, bound, label, title) in zip(axes, pairs, strict=True):
        curve = table.groupby("rate")[bound].mean()
        place.plot(curve.index, curve, color=INK, marker="_", markersize=14, linestyle="--", label="bound (mean of the rows)")
        for index, (technique, look) in enumerate(zip(techniques, SERIES, strict=False)):
            own = table[(table.technique == technique) & table[column].notna()]
            shift = (index - (len(techniques[:CURVES]) - 1) / 2) * 0.012
            low, high = own[column] - own[f"{column}_low"], own[f"{column}_high"] - own[column]
            place.errorbar(
                own.rate + shift, own[column], yerr=[low, high], color=look[0], marker=look[1], linestyle="none",
                markersize=5, elinewidth=1, capsize=2, label=technique,
            )  # fmt: skip
        _rate_axis(place, table.rate.max())
        place.set(ylabel=label, ylim=(-0.03, 1.03))
        place.set_title(title, fontsize=10, loc="left")
        place.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        place.grid(color="#d8dee4", linewidth=0.6)
    _legend(figure, axes[0])
    return figure


def pareto(table: pd.DataFrame, cost: str, label: str, *, unit: str = "") -> Figure:
    """Draw accuracy against cost per image, a panel per network; what nothing else beats in both is joined, lettered and named."""
    panels = list(table.groupby("network", sort=True))
    figure, axes = _panels(len(panels), width=PANEL[0], height=4.6)
    for place, (title, group) in zip(axes, panels, strict=True):
        group = group.sort_values([cost, "accuracy"], ascending=[True, False])
        front = group[group.accuracy > group.accuracy.shift(fill_value=-1).cummax()]
        yerr = [group.accuracy - group.accuracy_low, group.accuracy_high - group.accuracy]
        place.errorbar(
            group[cost], group.accuracy, yerr=yerr, color="#8a949e", marker="o", linestyle="none", markersize=4, elinewidth=0.8
        )
        place.step(front[cost], front.accuracy, where="post", color=INK, linewidth=1.2, linestyle="--")
        several = group.shown.nunique() > 1
        for index, (letter, (_, point)) in enumerate(zip(ascii_lowercase, front.iterrows(), strict=False)):
            name = f"{point.technique}, {point.shown}" if several else point.technique
            # Letters at the points, left and right in turns, hide each other less than names, which stand below the panel.
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
            where = {"ha": ("right", "left")[index % 2], "va": "center", "zorder": 5}
            place.text(point[cost], point.accuracy, letter, fontsize=7, bbox=box, **where)
            place.plot([], [], linestyle="none", label=f"{letter}: {name}")
        place.margins(x=0.1, y=0.08)
        place.set(xlabel=label, ylabel="mean accuracy")
        place.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14), handlelength=0, handletextpad=0)
        place.xaxis.set_major_formatter(EngFormatter(unit))
        place.yaxis.set_major_formatter(PercentFormatter(1))
        place.grid(color="#d8dee4", linewidth=0.6)
        place.set_title(title, fontsize=10, loc="left")
    return figure


def titled(figure: Figure, title: str) -> Figure:
    """Return the figure with a line above its panels that says which faults it is about."""
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def laid_out(figure: Figure) -> Figure:
    """Return the figure with its layout settled, so that it is not worked out again for every file."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG file, the same for the same data; text stays text."""
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def inline_svg(text: str, name: str, description: str) -> str:
    """Return an SVG file as an element of an HTML page: no ids shared with other figures, no foreign vocabulary."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)


def _panels(count: int, *, width: float = PANEL[0], height: float = PANEL[1]) -> tuple[Figure, list[Axes]]:
    across = min(count, max(1, int(14 // width)))
    down = -(-count // across)
    figure = Figure(figsize=(width * across, height * down + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flatten())
    for place in axes:
        place.spines[["top", "right"]].set_visible(False)
        place.tick_params(labelsize=8)
    for place in axes[count:]:
        place.set_visible(False)
    return figure, axes[:count]


def _curve(axes: Axes, rows: pd.DataFrame, column: str, label: str, look: tuple) -> None:
    if rows.empty:
        return
    rows = rows.sort_values(column)
    colour, marker, style = look
    axes.fill_between(rows[column], rows.accuracy_low, rows.accuracy_high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(rows[column], rows.accuracy, color=colour, marker=marker, linestyle=style, linewidth=1.6, markersize=5, label=label)
    if len(rows) == 1:
        axes.vlines(rows[column], rows.accuracy_low, rows.accuracy_high, color=colour, linewidth=1, linestyle=style)


def _accuracy_axis(axes: Axes, title: str) -> None:
    """Label the axis, over what the curves need but at least five points: what lies closer together is no difference to look at."""
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max(high - low, 0.05) / 2
    high = min(middle + half, 1.005)
    axes.set_ylim(max(high - 2 * half, -0.005), high)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#d8dee4", linewidth=0.6)
    axes.set_title(title, fontsize=10, loc="left")


def _rate_axis(axes: Axes, most: float) -> None:
    axes.set_xlim(0, 1.08 * most)
    axes.set_xlabel("fault rate")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), int(figure.get_figwidth() // 1.9)))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8)


def _places(value: float) -> int:
    """Return the decimals that give a value three digits once a prefix stands before its unit."""
    return 2 - int(np.floor(np.log10(value))) % 3 if value > 0 else 0
