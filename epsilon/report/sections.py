"""The sections of a report: each is there only where the rows support it, and says what it shows and from which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from epsilon.report import figures, tables
from epsilon.report.figures import titled
from epsilon.report.paper import POINTS, RATES, table1
from epsilon.report.results import SCENARIO, Results, technique_order
from epsilon.report.text import DASH, basis, energy_sources, interval, number, plural, points, scenario

__all__ = ["Section", "sections"]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Parameters
    ----------
    name : str
        Of its files and its anchor.
    title : str
    sentences : tuple of str
        HTML.
    figures : dict of str to Figure
        By file name, without the ending.
    tables : tuple of str
        HTML.
    data : dict of str to pandas.DataFrame
        What is written as CSV, by file name.
    """

    name: str
    title: str
    sentences: tuple[str, ...]
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    data: dict[str, pd.DataFrame] = field(default_factory=dict)


def sections(results: Results) -> Iterator[Section]:
    """Yield the sections that the rows support, in the order of the page."""
    league = tables.league(results) if len(results.drawn) else pd.DataFrame()
    if len(league):
        yield _league(results, league)
        yield from _table1(results)
        yield from _by_rate(results, league)
    yield from _by_setting(results, "gamma", "Fig. 1")
    yield from _by_setting(results, "alpha", "Fig. 2")
    if len(league):
        yield _latency(results, league)
        yield _energy(results, league)
        yield _pareto(results, league)
        yield from _exits(results)
    yield from _vulnerability(results)
    yield from _detector(results)
    yield from _bounds(results)


def _league(results: Results, league: pd.DataFrame) -> Section:
    head = (
        "technique", "golden weights", "accuracy, %", "to vanilla, points", "to fault-free, points", "silent corruptions, %",
        "cycles per image", "energy per image, nJ", "cells", "maps",
    )  # fmt: skip
    body = []
    for names, group in league.groupby([*SCENARIO, "network", "shown"], sort=True):
        first = group.iloc[0]
        free = sorted({interval(row, "fault_free") for _, row in group.iterrows()}, reverse=True)
        what = f"{escape(names[3])}, {escape(names[4])}; {scenario(*names[:3])}"
        title = f"{what}; fault-free {' and '.join(free)} %, {first.images:,} images"
        body.append(f'<tr class="group"><th colspan="{len(head)}">{title}</th></tr>')
        for _, row in group.iterrows():
            body.append(
                f"<tr><td>{escape(row.technique)}</td><td>{'yes' if row.golden else 'no'}</td>"
                f'<td class="accuracy">{interval(row, "accuracy")}</td>'
                f"<td>{points(row, 'to_vanilla')}</td><td>{points(row, 'to_fault_free')}</td>"
                f'<td class="accuracy">{interval(row, "sdc")}</td>'
                f"<td>{number(row.cycles_per_image)}</td><td>{number(row.energy_pj_per_image / 1e3)}</td>"
                f"<td>{row.cells}{'' if row.complete else '†'}</td><td>{row.maps}</td></tr>"
            )
    sentences = [
        "Mean top-1 accuracy over all fault points and rates of each technique, every cell with the same weight: "
        f"{basis(results.drawn)}.",
        "Differences are paired: same fault maps, same images. Silent corruptions are images whose answer is not the fault-free "
        "one and nothing had been flagged till then. Golden weights: the repair reads the original weights from memory, which only "
        "a fault in a PE leaves there (site array).",
    ]
    if not league.to_fault_free_paired.all():
        sentences.append(
            "The file has no fault-free run of some techniques: their difference to fault-free is from the two intervals, not "
            "paired, and so wider than it had to be."
        )
    if league.energy_pj_per_image.isna().any():
        sentences.append("Where the energy is a dash, the rows hold no count of events, so none can be given.")
    if not league.complete.all():
        sentences.append("† fewer cells than the other techniques of its group: its mean is over other faults and not comparable.")
    sentences += _uncorrectable(results.drawn[results.drawn.kind == "secded"].words_uncorrectable)
    return Section(
        "league", "League of techniques", tuple(sentences), tables=(_table(head, body, left=2),), data={"league": league}
    )


def _uncorrectable(words: pd.Series) -> list[str]:
    """Say what the code of secded found and could not correct; runs that were made before that was counted have NaN."""
    known = words.dropna()
    if words.empty:
        return []
    if known.empty:
        return ["The runs of secded were made before the words that its code cannot correct were counted."]
    unknown = len(words) - len(known)
    return [
        f"secded corrects one wrong bit in a word: in {plural(len(known), 'run')} it met {plural(int(known.sum()), 'word')} with "
        "more, counted once per run, which it detects and which are used as they are."
        + (f" {plural(unknown, 'older run')} did not count them." if unknown else "")
    ]


def _table1(results: Results) -> Iterator[Section]:
    for polarity in ("1", "0"):
        table = table1(results, polarity=polarity)
        if table.empty:
            continue
        head = ["model", "multiplier", "technique", *(f"{point} {100 * rate:g} %" for point in POINTS for rate in RATES), "average"]
        body, notes = [], 0
        for (model, short, technique), group in table.groupby(["model", "short", "technique"], sort=False):
            cells = {(row.point, None if np.isnan(row.rate) else round(row.rate, 2)): row for _, row in group.iterrows()}
            line = "".join(f'<td class="accuracy">{_beside(cells.get((p, r)))}</td>' for p in POINTS for r in RATES)
            average = cells[("average", None)]
            printed = "" if np.isnan(average.printed) else f'<span class="paper">printed: {100 * average.printed:.2f}</span>'
            line += f'<td class="accuracy">{_beside(average)}{printed}</td>'
            body.append(f"<tr><td>{model}</td><td>{escape(short)}</td><td>{escape(technique)}</td>{line}</tr>")
            notes += not np.isnan(average.paper)
        name = "table1" if polarity == "1" else "table1_sa0"
        printed = "the paper prints no table of stuck-at-0"
        if polarity == "1":
            printed = (
                "the paper's figure, where Table I has one, in small print below ours (it prints no interval, and SA1 only); the "
                "average of its cells is computed here, the one it prints is named so"
            )
        sentences = (
            f"Top-1 accuracy on CIFAR-10, percent with its interval, under stuck-at-{polarity} faults of stored weights: "
            f"{table.maps.max()} fault maps at most per line, {table.images.min():,} images; {printed}. The average is over the "
            "cells that are there.",
            "<code>vanilla</code> is AxVanDNN, <code>mendnet</code> AxMENDNet as reconstructed here, <code>epsilon/quartile</code> "
            "the paper's repair; the line after it is the best repair that reads no golden weights, chosen on these same rows. "
            "Networks and training differ from the paper's, so only differences between techniques compare directly.",
        )
        yield Section(
            name,
            f"Table I: stuck-at-{polarity}" + (", beside [Khalil & Hoque]" if notes and polarity == "1" else ""),
            sentences,
            tables=(_table(head, body, left=3),),
            data={name: table},
        )


def _by_rate(results: Results, league: pd.DataFrame) -> Iterator[Section]:
    table = tables.accuracy_by_rate(results)
    several = table[table.groupby(SCENARIO).rate.transform("nunique") > 1]
    drawn = _per_scenario("accuracy_by_rate", several, lambda group, names: figures.curves_by_rate(group, curves(league, names)))
    if not drawn:
        return
    text = (
        f"Accuracy by fault rate, mean over fault points, with its interval as a band: {basis(results.drawn)}. At most "
        f"{figures.CURVES} techniques are drawn, the baselines, the paper's repair and the best others; the CSV has all."
    )
    yield Section("accuracy_by_rate", "Accuracy by fault rate", (text,), drawn, data={"accuracy_by_rate": table})


def _by_setting(results: Results, setting: str, figure: str) -> Iterator[Section]:
    table = tables.accuracy_by_setting(results, setting)
    if table.empty:
        return
    what = {"gamma": "confidence threshold gamma of every exit", "alpha": "importance alpha of every layer"}[setting]
    drawn = _per_scenario(f"accuracy_by_{setting}", table, lambda group, _: figures.curves_by_setting(group, setting))
    text = (
        f"Accuracy by the {what} ({figure} of the paper), one curve per multiplier, intervals as bands: "
        f"{plural(table.maps.max(), 'fault map')} at most per point, {table.images.min():,} images; fault points "
        f"{escape(', '.join(sorted(set(' '.join(table.points).split()))))}, fault rates "
        f"{', '.join(f'{100 * float(rate):g} %' for rate in sorted(set(' '.join(table.rates).split()), key=float))}."
    )
    yield Section(f"by_{setting}", f"Accuracy by {setting} ({figure})", (text,), drawn, data={f"accuracy_by_{setting}": table})


def _latency(results: Results, league: pd.DataFrame) -> Section:
    text = (
        "Latency (Fig. 3 of the paper) as mean cycles of the array per image, early exits, signature read-out and probes included, "
        f"by data set and multiplier: {basis(results.drawn)}. Cycles of the array, not the time of the emulator; the host's share "
        "is not in them."
    )
    return Section("latency", "Latency (Fig. 3)", (text,), _costs(league, "cycles_per_image", "cycles per image", "latency"))


def _energy(results: Results, league: pd.DataFrame) -> Section:
    known = league[league.energy_pj_per_image.notna()]
    sources = () if results.energies is None else (escape(energy_sources(results.energies)),)
    if known.empty:
        return Section(
            "energy", "Energy (Fig. 4)", ("The rows hold no count of the hardware's events, so no energy can be given.",)
        )
    rows = results.drawn[results.drawn.energy_pj.notna()]
    table = known.assign(joules=known.energy_pj_per_image * 1e-12)
    text = (
        "Energy (Fig. 4 of the paper) per image, from counted events of the hardware and an energy per event, by data set and "
        f"multiplier: {basis(rows)}. Of the modelled accelerator, not of the machine that ran the emulator."
    )
    drawn = _costs(table, "joules", "energy per image", "energy", unit="J")
    return Section("energy", "Energy (Fig. 4)", (text, *sources), drawn)


def _costs(league: pd.DataFrame, column: str, label: str, name: str, *, unit: str = "") -> dict[str, Figure]:
    return _per_scenario(
        name, league, lambda group, names: figures.bars_by_dataset(group, column, label, curves(league, names), unit=unit)
    )


def _pareto(results: Results, league: pd.DataFrame) -> Section:
    known = league.energy_pj_per_image.notna().all()
    label, unit = ("energy per image", "J") if known else ("cycles per image", "")
    table = league.assign(cost=league.energy_pj_per_image * 1e-12 if known else league.cycles_per_image)
    drawn = _per_scenario("pareto", table, lambda group, _: figures.pareto(group[group.complete], "cost", label, unit=unit))
    text = (
        f"Mean accuracy with its interval against {label}, a point per technique and multiplier: {basis(results.drawn)}. Named are "
        "those that none of the others beats in both." + ("" if known else " The rows hold no energy, so cycles stand in for it.")
    )
    return Section("pareto", f"Accuracy and {'energy' if known else 'latency'}", (text,), drawn)


def _exits(results: Results) -> Iterator[Section]:
    table = tables.exit_shares(results)
    if table.empty:
        return
    drawn = _per_scenario("exits", table, lambda group, _: figures.exit_bars(group))
    text = f"Which exit answered, as a share of the images over all fault points and rates: {basis(results.drawn)}."
    yield Section("exits", "Exits taken", (text,), drawn, data={"exits": table})


def _vulnerability(results: Results) -> Iterator[Section]:
    table = tables.vulnerability(results)
    if table.empty:
        return
    keys = ["network", "shown", "site", "polarity", "rate"]
    drawn = {
        f"vulnerability_{index}": figures.heat_map(group)
        for index, (_, group) in enumerate(table.groupby(keys, sort=True), start=1)
    }
    rows = results.base[results.base.bit.notna()]
    text = (
        f"Accuracy lost by layer and stuck bit, when that bit alone is stuck in a share of the layer's weights: {basis(rows)}. "
        "Each cell has the difference to the fault-free accuracy in points, with its interval."
    )
    yield Section("vulnerability", "Vulnerability of bits and layers", (text,), drawn, data={"vulnerability": table})


def _detector(results: Results) -> Iterator[Section]:
    found = tables.scores(results)
    if found.empty or not found.faulty.any():
        return
    roc, at = tables.detector_roc(found), tables.operating_points(found)
    head = (
        "site",
        "fault rate",
        "faulty layers",
        "flagged above T_l, %",
        "any change of the pattern, %",
        "healthy layers",
        "of them changed",
    )
    body = [
        f"<tr><td>{row.site}</td><td>{100 * row.rate:g} %</td><td>{row.faulty}</td><td>{interval(row, 'at_threshold')}</td>"
        f"<td>{interval(row, 'at_zero')}</td><td>{row.healthy}</td><td>{row.false_alarms}</td></tr>"
        for _, row in at.iterrows()
    ]
    maps = results.frame[results.frame.scores.notna() & (results.frame.rate > 0)].map_digest.nunique()
    healthy = found[~found.faulty]
    zero = (
        "A healthy layer's pattern score is exactly 0, because weights are digital: no threshold from 0 up raises a false alarm, "
        "and the curve's only other corner is the threshold below 0 that flags everything."
        if len(healthy) and (healthy.score == 0).all()
        else f"Of {len(healthy)} healthy layers {int((healthy.score > 0).sum())} have a score above 0."
    )
    text = (
        "The pattern detector (Eq. 6) over its thresholds, per fault rate, from the first check on each of "
        f"{plural(maps, 'fault map')} ({plural(len(found), 'layer')} scored). {zero} Layers of one map are not independent; the "
        "intervals are Wilson's."
    )
    yield Section(
        "detector", "Pattern detector: ROC", (text,), {"roc": figures.roc_curves(roc, found)}, (_table(head, body, left=1),),
        {"roc": roc, "operating_points": at},
    )  # fmt: skip


def _bounds(results: Results) -> Iterator[Section]:
    table = tables.bounds(results)
    if table.empty:
        return
    drawn = {
        f"bounds_{'_'.join(map(str, names[:3]))}_{index}": titled(
            figures.bound_points(group, technique_order(group.technique)), f"{names[3]}, {names[4]}; {scenario(*names[:3])}"
        )
        for index, (names, group) in enumerate(table.groupby([*SCENARIO, "network", "shown"], sort=True), start=1)
    }
    above = int((table.error_low > table.bound_error).sum())
    missed = int((table.missed_low > table.bound_missed).sum())
    rows = results.drawn[results.drawn.bound_error.notna()]
    text = (
        f"The bounds of Eq. 8 and 9 beside the measured rates, per technique and fault rate: {basis(rows)}. The measured error "
        f"lies significantly above its bound in {above} of {len(table)} lines, the missed faults in {missed} (of faulty layers "
        "that a check looked at; layers of one map are not independent)."
    )
    yield Section("bounds", "Bounds of Eq. 8 and 9", (text,), drawn, data={"bounds": table})


def _per_scenario(name: str, table: pd.DataFrame, draw: Callable[[pd.DataFrame, tuple], Figure]) -> dict[str, Figure]:
    """Return a titled figure for each kind of faults, by file name; ``draw`` gets its lines and its names (``SCENARIO``)."""
    return {
        f"{name}_{'_'.join(names)}": titled(draw(group, names), scenario(*names))
        for names, group in table.groupby(SCENARIO, sort=True)
    }


def curves(league: pd.DataFrame, names: tuple) -> list[str]:
    """Return the techniques to draw for a scenario: baselines, the paper's repair, and the best others by mean accuracy."""
    own = league[(league.site == names[0]) & (league.polarity == names[1]) & (league.bits == names[2])]
    mean = own.groupby("technique").accuracy.mean().sort_values(ascending=False, kind="stable")
    fixed = [name for name in ("vanilla", "mendnet", "epsilon/quartile") if name in mean.index]
    rest = [name for name in mean.index if name not in fixed]
    return technique_order(fixed + rest[: figures.CURVES - len(fixed)])


def _beside(row: pd.Series | None) -> str:
    if row is None:
        return DASH
    paper = "" if np.isnan(row.paper) else f'<span class="paper">paper: {100 * row.paper:.2f}</span>'
    return f"{interval(row, 'accuracy')}{paper}"


def _table(head: tuple[str, ...] | list[str], body: list[str], *, left: int) -> str:
    columns = "".join(f"<th>{title}</th>" for title in head)
    return (
        f'<div class="wide"><table class="left{left}"><thead><tr>{columns}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )
