"""The comparison with the paper as Markdown: its Table I beside ours, what agrees and what does not, all computed from the rows."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd

from epsilon import multipliers
from epsilon.error_bounds import error_bound, missed_bound
from epsilon.report import tables
from epsilon.report.paper import MODELS, POINTS, RATES, paper_table, printed_averages, table1
from epsilon.report.results import Results, architecture, technique_order, uses_golden
from epsilon.report.text import basis, energy_sources, plain_interval, plain_points, plural

__all__ = ["reproduction"]

#: A cell agrees with the paper's when it is within so many points.
CLOSE = 0.05
#: Example of Eq. 8 and 9 in section IV-B of [Khalil & Hoque]: alpha, p, gamma, exits, and the sum that is printed.
EXAMPLE = (0.7, 0.5, 0.7, 4, 0.1855)


def reproduction(results: Results, source: str) -> str:
    """Return the document.

    Parameters
    ----------
    source : str
        Name of the results file, for the record.
    """
    stuck_1, stuck_0 = table1(results, polarity="1"), table1(results, polarity="0")
    parts = [
        "# The paper's evaluation, repeated",
        f"Made by `epsilon report {source} --markdown FILE`; nothing in it is written by hand. The paper is K. Khalil, K. A. "
        "Hoque, *EPSILON: Adaptive Fault Mitigation in Approximate Deep Neural Network using Statistical Signatures*.",
        f"Accuracies are top-1 in percent with {100 * results.resampler.confidence:g} % intervals over fault maps and images "
        "(crossed bootstrap; with one map per cell over images alone); the paper prints no intervals. Its networks are not public, "
        "ours are narrower and trained otherwise: compare differences, not levels.",
        *_networks(results),
        *(_table("Table I: stuck-at-1", stuck_1) if len(stuck_1) else []),
        *(_agreement(results, stuck_1) if len(stuck_1) else []),
        *(_table("Stuck-at-0", stuck_0) if len(stuck_0) else []),
        *_multipliers(stuck_1, stuck_0),
        *_arrays(results),
        *_reasons(results),
    ]
    return "\n\n".join(parts) + "\n"


def _networks(results: Results) -> list[str]:
    lines = []
    base = results.base[results.base.dataset == "cifar10"]
    for (network, shown), rows in base.groupby(["network", "shown"], sort=True):
        for count, own in rows.groupby("correct_fault_free"):
            free = results.fault_free(own)
            kinds = ", ".join(sorted(own.kind.unique()))
            value = plain_interval(tables.spread_out("free", free), "free")
            lines.append([network, architecture(network) or "none", shown, kinds, value, f"{int(count):,} of {free.images:,}"])
    if not lines:
        return ["The rows hold no CIFAR-10 campaign, so there is nothing to lay beside Table I."]
    return ["## Networks, fault-free", _grid(["network", "paper's name", "multiplier", "exits as in", "accuracy", "right"], lines)]


def _table(title: str, table: pd.DataFrame) -> list[str]:
    parts = [
        f"## {title}",
        "`vanilla` is AxVanDNN, `mendnet` AxMENDNet as reconstructed here, `epsilon/quartile` the paper's repair (with `/pattern` "
        "also its detector). Any other line is the best repair without golden weights, chosen on the same rows it is reported for.",
    ]
    for (model, short), group in table.groupby(["model", "short"], sort=False):
        names = list(dict.fromkeys(group.technique))
        lines = []
        for point, rate in [*((point, rate) for point in POINTS for rate in RATES), ("average", math.nan)]:
            at = group[(group.point == point) & (group.rate.isna() if math.isnan(rate) else group.rate.round(6) == rate)]
            cells = [_beside(at[at.technique == name]) for name in names]
            if any(cells):
                lines.append([f"{point} {100 * rate:g} %" if point != "average" else "**average of the cells**", *cells])
        parts += [f"### {model}, {short} ({plural(int(group.maps.max()), 'fault map')}, {group.images.min():,} images)"]
        parts.append(_grid(["", *(f"`{name}`" for name in names)], lines))
    return parts


def _beside(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    paper = "" if np.isnan(row.paper) else f"<br>paper {100 * row.paper:.2f}"
    printed = "" if np.isnan(row.printed) else f", printed as {100 * row.printed:.2f}"
    return plain_interval(row, "accuracy") + paper + printed


def _agreement(results: Results, table: pd.DataFrame) -> list[str]:
    cells = table[(table.point != "average") & table.paper.notna()]
    averages = table[table.point == "average"]
    found = ["## What agrees and what does not"]
    lines = []
    for technique, own in cells.groupby("technique", sort=False):
        gap = (own.accuracy - own.paper).abs()
        inside = ((own.accuracy_low <= own.paper) & (own.paper <= own.accuracy_high)).sum()
        lines.append(
            [
                f"`{technique}`",
                own.paper_technique.iloc[0],
                f"{(gap <= CLOSE).sum()} of {len(own)}",
                f"{inside} of {len(own)}",
                f"{100 * gap.mean():.1f}",
            ]
        )
    if lines:
        head = [
            "technique",
            "paper's",
            f"cells within {100 * CLOSE:g} points",
            "paper's figure inside our interval",
            "mean gap, points",
        ]
        found += [_grid(head, lines), *_orders(cells), *_weakest(cells)]
    for _, row in averages[averages.technique.str.startswith("epsilon")].iterrows():
        role = "the paper's repair" if "/quartile" in row.technique else "the best repair without golden weights"
        within = _verdict(row.to_fault_free_low, row.to_fault_free_high)
        found.append(
            f"- {row.model}, {row.short}: `{row.technique}`, {role}, is {plain_points(row, 'to_fault_free')} points from the "
            f"fault-free accuracy of {plain_interval(row, 'fault_free')} over {plural(int(row.cells), 'cell')}: {within}."
        )
    return found


def _verdict(low: float, high: float) -> str:
    if low >= -0.01:
        return "within 1 point of it"
    return "more than 1 point below it" if high < -0.01 else "1 point lies inside the interval, so this sample does not settle it"


def _orders(cells: pd.DataFrame) -> list[str]:
    """Say in how many cells each technique beats AxVanDNN, in the paper and here."""
    key = ["model", "short", "point", "rate"]
    vanilla = cells[cells.paper_technique == "AxVanDNN"]
    found = []
    for technique, own in cells[cells.paper_technique != "AxVanDNN"].groupby("technique", sort=False):
        both = own.merge(vanilla, on=key, suffixes=("", "_vanilla"))
        if both.empty:
            continue
        theirs, ours = both.paper > both.paper_vanilla, both.accuracy > both.accuracy_vanilla
        clear = both.accuracy_low > both.accuracy_high_vanilla
        found.append(
            f"- {own.paper_technique.iloc[0]} is above AxVanDNN in {theirs.sum()} of {len(both)} cells of the paper; here "
            f"`{technique}` is above `vanilla` in {ours.sum()}, in {clear.sum()} of them with intervals that do not meet. The sign "
            f"agrees in {(theirs == ours).sum()}."
        )
    return found


def _weakest(cells: pd.DataFrame) -> list[str]:
    """Say which fault point costs most, in the paper and here."""
    found = []
    for technique, own in cells.groupby("technique", sort=False):
        by_point = own.groupby("point")[["accuracy", "paper"]].mean()
        if len(by_point) > 1:
            ours, theirs = by_point.accuracy.idxmin(), by_point.paper.idxmin()
            same = "as" if ours == theirs else "unlike"
            found.append(
                f"- `{technique}`: faults cost most at {ours} here, {same} in the paper ({theirs}); means over models, multipliers "
                "and rates."
            )
    return found


def _multipliers(*found: pd.DataFrame) -> list[str]:
    parts = []
    for title, table in zip(("stuck-at-1", "stuck-at-0"), found, strict=True):
        if table.empty:
            continue
        own = table[(table.model == "VGG16") & (table.point == "average")]
        if own.short.nunique() < 2:
            continue
        names = list(dict.fromkeys(own.technique))
        lines = [
            [
                short,
                f"{group.images.min():,}",
                f"{group.maps.max()}",
                *(
                    plain_interval(here.iloc[0], "accuracy") if len(here := group[group.technique == name]) else ""
                    for name in names
                ),
            ]
            for short, group in own.groupby("short", sort=False)
        ]
        parts += [
            f"## All multipliers, VGG16, {title}: average over the cells",
            _grid(["multiplier", "images", "maps", *(f"`{n}`" for n in names)], lines),
        ]
    return parts


def _arrays(results: Results) -> list[str]:
    """Lay out what golden weights make possible where PEs are faulty."""
    rows = results.drawn[(results.drawn.site == "array") & (results.drawn.dataset == "cifar10")]
    if rows.empty:
        return []
    worst = rows.rate.max()
    lines = []
    for (network, shown, polarity), group in rows.groupby(["network", "shown", "polarity"], sort=True):
        for technique in technique_order(group.technique):
            own = group[group.technique == technique]
            at_worst = own[own.rate == worst]
            values = {
                **tables.spread_out("accuracy", results.estimate(own)),
                **tables.spread_out("loss", results.loss(own)),
                **tables.spread_out("loss_at_worst", results.loss(at_worst) if len(at_worst) else None),
            }
            lines.append(
                [
                    network,
                    shown,
                    polarity,
                    f"`{technique}`",
                    "yes" if uses_golden(own) else "no",
                    plain_interval(values, "accuracy"),
                    plain_points(values, "loss"),
                    plain_points(values, "loss_at_worst"),
                ]
            )
    head = ["network", "multiplier", "stuck at", "technique", "golden weights", "accuracy", "to fault-free, points"]
    head.append(f"the same at {100 * worst:g} %")
    return ["## Faults in the PEs (not in the paper)", f"{basis(rows)}.", *_never_checked(rows), _grid(head, lines)]


def _never_checked(rows: pd.DataFrame) -> list[str]:
    """Say how often faults left a network so sure of its answers that nothing was ever checked."""
    own = rows[(rows.kind == "epsilon") & ~rows.technique.str.contains("/patrol-")]
    by_map = own.groupby(["network_digest", "multiplier", "map_digest"]).checks.max()
    if by_map.empty:
        return []
    return [
        f"On {(by_map == 0).sum()} of {plural(len(by_map), 'pair')} of network and fault map every answer was sure from the first "
        "image to the last, right or wrong, so Algorithm 1 never checked. Techniques with `patrol` check every so many images "
        "besides."
    ]


def _reasons(results: Results) -> list[str]:
    sources = "" if results.energies is None else f" {energy_sources(results.energies)}"
    return [
        "## Why Table I is a claim to compare with, not a yardstick",
        _printed_averages(),
        _constant_columns(),
        _bound_arithmetic(),
        *_masked_faults(results),
        *_false_alarms(results),
        *_stuck_registers(results),
        "**Latency and energy.** The paper times a software emulator on a GPU and measures the joules of that machine. Here "
        "latency is cycles of the array and energy is counted events of the hardware times an energy per event; time and joules of "
        f"the emulator are another thing and reported apart.{sources}",
    ]


def _printed_averages() -> str:
    cells, gaps = paper_table(), {}
    for (model, short, technique), printed in printed_averages().items():
        own = [value for key, value in cells.items() if key[:3] == (model, short, technique)]
        gaps[model, short, technique] = (printed, float(np.mean(own)))
    off = {key: pair for key, pair in gaps.items() if abs(pair[0] - pair[1]) > 0.0001}
    worst = max(gaps, key=lambda key: abs(gaps[key][0] - gaps[key][1]))
    printed, own = gaps[worst]
    return (
        f"**Averages that are not averages.** Of the {len(gaps)} averages that Table I prints, {len(off)} differ by more than 0.01 "
        f"points from the average of their own twelve cells; {', '.join(worst)} most: it prints {100 * printed:.2f}, its cells "
        f"average {100 * own:.2f}. The averages above are those of the cells."
    )


def _constant_columns() -> str:
    cells, said = paper_table(), []
    for before, after in (("KVP", "L2J"), ("L2J", "L2H")):
        for model in MODELS:
            for technique in ("AxVanDNN", "AxMENDNet", "EPSILON"):
                steps = Counter(
                    round(100 * (cells[model, after, technique, point, rate] - cells[model, before, technique, point, rate]), 2)
                    for point in POINTS
                    for rate in RATES
                )
                step, count = steps.most_common(1)[0]
                if count >= 7:
                    said.append(f"{model} {technique}, {before} to {after}: {step:+.2f} in {count} of {sum(steps.values())} cells")
    same = np.array_equal(multipliers.get("v1/mul8s_1L2H").table(), multipliers.get("v2022/mul8s_1L2J").table())
    twins = (
        "EvoApproxLib's L2H (first release) and L2J (release of 2022) give the same product for every pair of operands, so exact "
        "emulation cannot tell their columns apart; the table that AdaPT ships as L2H is not that circuit's and a likely cause"
        if same
        else "L2H and L2J are different functions"
    )
    return f"**Columns that differ by a constant.** {'; '.join(said)}. Faults do not act so. {twins}."


def _bound_arithmetic() -> str:
    alpha, rate, gamma, exits, printed = EXAMPLE
    missed = missed_bound(alpha, rate)
    bound, unsure = error_bound(gamma, exits, missed), error_bound(gamma, exits, 0)
    return (
        f"**The example of Eq. 8.** At alpha {alpha:g} and p {rate:g}, exp(-alpha^2 / 2p) is {missed:.3f}; the printed sum of "
        f"{printed:g} would need {printed - unsure:.3f}. With Eq. 9 the bound on the error is {bound:.3f}, so it promises an "
        f"accuracy of {100 * (1 - bound):.1f} %, not {100 * (1 - printed):.2f} %."
    )


def _false_alarms(results: Results) -> list[str]:
    found = tables.scores(results)
    if found.empty:
        return []
    healthy, faulty = found[~found.faulty], found[found.faulty]
    if healthy.empty or faulty.empty:
        return []
    alarms = int((healthy.score > 0).sum())
    above, changed = int((faulty.score > faulty.threshold).sum()), int((faulty.score > 0).sum())
    return [
        "**False alarms.** Weights are digital: a layer without a wrong weight has the sparsity pattern that it always had. Of "
        f"{len(healthy):,} healthy layers at a first check {alarms} had a pattern score above 0. Of {len(faulty):,} faulty ones "
        f"{changed} had, and {above} were above T_l of Eq. 3: the threshold trades missed faults against repair work, not against "
        "false alarms."
    ]


def _masked_faults(results: Results) -> list[str]:
    """Say how many stuck bits change a weight that a product sees: why accuracy falls less here than in the paper."""
    rows = results.drawn[results.drawn.site == "storage"].drop_duplicates(["multiplier", "map_digest", "network_digest"])
    if rows.empty:
        return []
    parts = []
    for shown, own in rows.groupby("shown", sort=True):
        ignored, there = (own[column].sum() / own.faults.sum() for column in ("masked_multiplier", "masked_value"))
        parts.append(
            f"{shown}: {100 * ignored:.1f} % and {100 * there:.1f} %, so {100 * (1 - ignored - there):.1f} % change a weight"
        )
    return [
        "**Faults that change nothing.** A fault map here holds stuck bits, at most one per weight. Some lie in "
        "bits that the multiplier ignores, others have the value already that they are stuck at. Their shares of the stuck bits in "
        f"stored weights: {'; '.join(parts)}. The paper does not say how many of its faults took effect."
    ]


def _stuck_registers(results: Results) -> list[str]:
    rows = results.base[(results.base.repair == "quartile") & (results.base.words_written > 0) & results.base.words_exact.notna()]
    if rows.empty:
        return []
    written, exact = int(rows.words_written.sum()), int(rows.words_exact.sum())
    return [
        "**Rewriting through a stuck register.** What is written through a faulty register comes back with the stuck bit. Of "
        f"{written:,} words that the paper's repair wrote here, {exact:,} ({100 * exact / written:.1f} %) read back as the golden "
        "weight at the end. Every repair has to say where the corrected value lives."
    ]


def _grid(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
