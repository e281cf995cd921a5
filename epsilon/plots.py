"""The pictures of the demo: readable on paper and without colour (markers, hatches and numbers carry the meaning)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from epsilon.files import write_atomically

__all__ = ["plot_accuracy_by_rate", "plot_exits", "plot_stuck_and_repaired"]

INK = "#1b2733"
#: Colours that stay apart in grey and for colour-blind readers (Okabe and Ito), with a marker and a line style each.
SERIES = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#56504a", "v", (0, (5, 1, 1, 1))),
)
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
FILLS = ("#dbe7f3", "#f6d9c4", "#cfe8dd", "#eedbe8", "#e4e2df", "#fff2c4")


def plot_accuracy_by_rate(
    path: Path, rates: Sequence[float], curves: Mapping[str, np.ndarray], *, fault_free: float, title: str, rate_label: str
) -> None:
    """Draw the median accuracy by fault rate, with the middle half of the fault maps as a band and all of them as whiskers.

    Parameters
    ----------
    path : Path
        PNG file to write.
    rates : (R,), 0..1
    curves : dict of str to float (R, M)
        Accuracy 0..1 of each technique on each of M fault maps.
    fault_free : float
        Accuracy without faults, 0..1.
    """
    figure, axes = _figure(8.4, 5.0)
    x = np.asarray(rates)
    axes.axhline(fault_free, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        f"fault-free {100 * fault_free:.1f} %",
        (x[-1], fault_free),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    for index, ((name, values), (colour, marker, style)) in enumerate(zip(curves.items(), SERIES, strict=False)):
        low, lower, middle, upper, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1), axis=1)
        axes.fill_between(x, lower, upper, color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, middle, color=colour, marker=marker, linestyle=style, linewidth=1.8, markersize=6, label=name)
        # Side by side, so that no whisker hides another.
        axes.vlines(x + (index - (len(curves) - 1) / 2) * 0.012 * x.max(), low, high, color=colour, linewidth=1.1, linestyle=style)
    axes.set_xlabel(rate_label)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.06)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(color="#d8dee4", linewidth=0.6)
    maps = next(iter(curves.values())).shape[1]
    heading = f"median, middle half (band) and range (lines) of {maps} fault maps"
    style = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "alignment": "left"}
    axes.legend(title=heading, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2, **style)
    _save(figure, path, title)


def plot_stuck_and_repaired(
    path: Path, stuck_bits: Sequence[Sequence[str]], errors: Mapping[str, np.ndarray], *, title: str, legend: str
) -> None:
    """Draw the array's PEs: which bit is stuck, and how far the weights are off that pass through each PE.

    Parameters
    ----------
    stuck_bits : (rows, cols) of str
        Text in each PE, empty for a healthy one.
    errors : dict of str to float (rows, cols)
        Mean absolute error of the codes that each PE's multiplier sees, one panel per entry.
    """
    across = min(3, 1 + len(errors))
    down = -(-(1 + len(errors)) // across)
    figure = Figure(figsize=(3.3 * across + 0.8, 3.5 * down + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    marked = np.array([[bool(text) for text in row] for row in stuck_bits])
    panels[0].imshow(np.where(marked, 0.45, 0.0), cmap="Greys", vmin=0, vmax=1)
    _cells(panels[0], stuck_bits, np.where(marked, 0.45, 0.0))
    panels[0].set_title(f"stuck bit ({int(marked.sum())} of {marked.size} PEs)", fontsize=10)
    top = max(1e-9, *(float(values.max()) for values in errors.values()))
    for axes, (name, values) in zip(panels[1:], errors.items(), strict=False):
        image = axes.imshow(values, cmap="Greys", vmin=0, vmax=top)
        texts = [[_short(*cell) for cell in zip(*row, strict=True)] for row in zip(values, marked, strict=True)]
        _cells(axes, texts, values / top)
        axes.set_title(f"{name}: mean {values.mean():.2f}", fontsize=10)
    rows, cols = marked.shape
    for index, axes in enumerate(panels):
        axes.set_visible(index <= len(errors))
        axes.set_xticks(range(cols))
        axes.set_yticks(range(rows))
        axes.tick_params(labelsize=8, length=0)
        axes.set_xlabel("column", fontsize=9)
        if index % across == 0:
            axes.set_ylabel("row", fontsize=9)
    figure.colorbar(image, ax=list(panels), shrink=0.6, label=legend)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", fontweight="bold")
    _write(figure, path)


def plot_exits(path: Path, taken: Mapping[str, Sequence[int]], *, title: str, accuracy: Mapping[str, str]) -> None:
    """Draw which exits answered, one bar per technique.

    Parameters
    ----------
    taken : dict of str to ints (exits,)
        Images answered by each exit.
    accuracy : dict of str to str
        Text beside each bar.
    """
    figure, axes = _figure(8.4, 0.62 * len(taken) + 1.9)
    names = list(taken)
    counts = np.array([taken[name] for name in names])
    left = np.zeros(len(names))
    for index in range(counts.shape[1]):
        label = f"exit {index + 1}" + (" (last)" if index == counts.shape[1] - 1 else "")
        bars = axes.barh(
            names,
            counts[:, index],
            left=left,
            color=FILLS[index % 6],
            hatch=HATCHES[index % 6],
            edgecolor=INK,
            label=label,
            height=0.66,
        )
        for bar, count, start in zip(bars, counts[:, index], left, strict=True):
            if count > 0.04 * counts.sum(axis=1).max():
                middle = bar.get_y() + bar.get_height() / 2
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
                axes.text(start + count / 2, middle, str(count), ha="center", va="center", fontsize=9, bbox=box)
        left += counts[:, index]
    for y, name in enumerate(names):
        axes.text(left[y] * 1.01, y, accuracy[name], va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, left.max() * 1.3)
    axes.set_xlabel("images answered")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(ncols=counts.shape[1], frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=9)
    _save(figure, path, title)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window system is asked for anything
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cells(axes: Axes, texts: Sequence[Sequence[str]], darkness: np.ndarray) -> None:
    for r, row in enumerate(texts):
        for c, text in enumerate(row):
            axes.text(c, r, text, ha="center", va="center", fontsize=8, color="white" if darkness[r, c] > 0.5 else INK)


def _short(value: float, stuck: bool) -> str:
    if value < 0.05:
        return "0" if stuck else ""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.axes[0].set_title(title, fontsize=12, loc="left", fontweight="bold")
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())
