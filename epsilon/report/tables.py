"""Tables of a campaign: one line per thing compared, every accuracy and rate with its interval. What figures and pages show."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from epsilon.report.results import DEPLOYMENT, SCENARIO, Results, count_cells, technique_order, uses_golden
from epsilon.resampling import Estimate
from epsilon.statistics import Proportion

__all__ = [
    "accuracy_by_rate",
    "accuracy_by_setting",
    "bounds",
    "detector_roc",
    "exit_shares",
    "league",
    "operating_points",
    "scores",
    "spread_out",
    "vulnerability",
]

GROUP = [*SCENARIO, *DEPLOYMENT]
#: What the scores of the first check depend on: nothing has been repaired yet, so neither technique nor image matters.
SCORED = [*DEPLOYMENT, *SCENARIO, "rate", "map_digest"]


def spread_out(name: str, estimate: Estimate | None) -> dict:
    """Return an estimate as the columns of a table: its value under ``name``, the ends of its interval beside it."""
    if estimate is None:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def league(results: Results) -> pd.DataFrame:
    """Return a line per scenario, deployment and technique: means over all its cells (fault points x rates).

    ``complete`` says whether the technique has as many cells as the one that has most.
    """
    lines = []
    rows = results.drawn
    for names, group in _groups(rows, GROUP):
        vanilla = group[group.kind == "vanilla"]
        cells = {technique: count_cells(own) for technique, own in group.groupby("technique")}
        for technique in technique_order(group.technique):
            own = group[group.technique == technique]
            accuracy = results.estimate(own)
            difference = results.difference(own, vanilla) if len(vanilla) and own.kind.iloc[0] != "vanilla" else None
            loss, total = results.loss(own), own.images.sum()
            lines.append(
                {
                    **names,
                    "shown": own.shown.iloc[0],
                    "technique": technique,
                    "kind": own.kind.iloc[0],
                    "golden": uses_golden(own),
                    **spread_out("accuracy", accuracy),
                    **spread_out("fault_free", results.fault_free(own)),
                    **spread_out("to_vanilla", difference),
                    **spread_out("to_fault_free", loss),
                    "to_fault_free_paired": "not paired" not in loss.method,
                    **spread_out("sdc", results.estimate(own, "sdc")),
                    "cycles_per_image": own.cycles.sum() / total,
                    "energy_pj_per_image": own.energy_pj.sum() / total if own.energy_pj.notna().all() else np.nan,
                    "cells": cells[technique],
                    "complete": cells[technique] == max(cells.values()),
                    "maps": accuracy.maps,
                    "interval": accuracy.method,
                    "runs": len(own),
                }
            )
    return pd.DataFrame(lines)


def accuracy_by_rate(results: Results) -> pd.DataFrame:
    """Return a line per scenario, deployment, technique and fault rate: means over fault points."""
    rows = results.drawn
    lines = []
    for names, group in _groups(rows, [*GROUP, "technique", "rate"]):
        estimate = results.estimate(group)
        lines.append(
            {
                **names,
                "shown": group.shown.iloc[0],
                **spread_out("accuracy", estimate),
                **spread_out("fault_free", results.fault_free(group)),
                "points": group.point.nunique(),
                "maps": estimate.maps,
                "interval": estimate.method,
            }
        )
    return pd.DataFrame(lines)


def accuracy_by_setting(results: Results, setting: str) -> pd.DataFrame:
    """Return a line per technique and value of ``gamma`` or ``alpha``, where at least three values were run; other settings alike.

    Only points of the campaign (fault point and rate) that were run under every value count, so that the lines are comparable.
    """
    frame = results.frame[(results.frame.rate > 0) & results.frame.bit.isna() & (results.frame.kind != "vanilla")]
    if setting == "gamma":
        frame = frame[(frame.gamma_fitted == 0) & frame.alpha.isna()]
    else:
        frame = frame[frame.alpha.notna() & (frame.gamma_fitted == 1)]
    lines = []
    for names, group in _groups(frame, [*GROUP, "technique"]):
        values = group[setting].nunique()
        if values < 3:
            continue
        place = ["point", "rate"]
        common = group.groupby(place)[setting].transform("nunique") == values
        for value, here in group[common].groupby(setting):
            estimate = results.estimate(here)
            lines.append(
                {
                    **names,
                    "shown": here.shown.iloc[0],
                    setting: value,
                    **spread_out("accuracy", estimate),
                    "points": " ".join(sorted(here.point.unique())),
                    "rates": " ".join(f"{rate:g}" for rate in sorted(here.rate.unique())),
                    "maps": estimate.maps,
                    "interval": estimate.method,
                }
            )
    return pd.DataFrame(lines)


def vulnerability(results: Results) -> pd.DataFrame:
    """Return a line per layer and stuck bit: accuracy of the least protected technique there, minus its fault-free accuracy.

    From rows in which one bit was chosen for every faulty weight and one layer is faulty.
    """
    frame = results.base[results.base.bit.notna()].copy()
    if frame.empty:
        return pd.DataFrame()
    frame["layer"] = [names[0] if len(names := json.loads(text)) == 1 else None for text in frame.layers]
    frame = frame[frame.layer.notna()]
    lines = []
    for names, group in _groups(frame, [*GROUP, "rate"]):
        technique = technique_order(group.technique)[0]
        group = group[group.technique == technique]
        order = _layer_order(results.frame[results.frame.network_digest == group.network_digest.iloc[0]], group)
        for (layer, bit), here in group.groupby(["layer", "bit"]):
            loss = results.loss(here)
            lines.append(
                {
                    **names,
                    "shown": here.shown.iloc[0],
                    "technique": technique,
                    "layer": layer,
                    "order": order.index(layer),
                    "bit": int(bit),
                    **spread_out("loss", loss),
                    "maps": loss.maps,
                    "interval": loss.method,
                }
            )
    return pd.DataFrame(lines)


def exit_shares(results: Results) -> pd.DataFrame:
    """Return a line per scenario, deployment, technique and exit: the share of the images that it answered, with its interval."""
    rows = results.drawn[results.drawn.exits.notna()]
    lines = []
    for names, group in _groups(rows, [*GROUP, "technique"]):
        taken = np.array([json.loads(text) for text in group.exits])
        for index in range(taken.shape[1]):
            estimate = results.estimate(group.assign(taken=taken[:, index]), "taken")
            lines.append(
                {
                    **names,
                    "shown": group.shown.iloc[0],
                    "exit": index + 1,
                    **spread_out("share", estimate),
                    "maps": estimate.maps,
                    "interval": estimate.method,
                }
            )
    return pd.DataFrame(lines)


def scores(results: Results) -> pd.DataFrame:
    """Return a line per layer of each first check: ``rate``, ``layer``, ``faulty``, ``score`` (Eq. 6) and ``threshold`` (T_l).

    Every technique that checks a fault map sees the same scores at first: a map counts once.
    """
    rows = results.frame[results.frame.scores.notna() & (results.frame.rate > 0)]
    rows = rows[rows.alpha.isna()].drop_duplicates(SCORED)
    lines = [
        {"rate": row.rate, "site": row.site, "layer": layer, "faulty": bool(faulty), "score": score, "threshold": threshold}
        for row in rows.itertuples()
        for layer, faulty, score, threshold in json.loads(row.scores)
    ]
    return pd.DataFrame(lines)


def detector_roc(found: pd.DataFrame) -> pd.DataFrame:
    """Return the receiver operating characteristic of the pattern score, one curve per site and fault rate.

    Parameters
    ----------
    found : pandas.DataFrame
        From ``scores``.

    Returns
    -------
    pandas.DataFrame
        ``threshold`` (a layer is flagged above it; from infinity down to below 0), ``detected`` (share of the faulty layers, with
        Wilson's interval), ``false_alarms`` (share of the healthy ones) and ``area`` under the curve.
    """
    lines = []
    for (site, rate), group in found.groupby(["site", "rate"]):
        faulty, healthy = group.score[group.faulty].to_numpy(), group.score[~group.faulty].to_numpy()
        if not len(faulty):
            continue
        area = _area(faulty, healthy)
        thresholds = [np.inf, *np.unique(group.score)[::-1], -1.0]
        for threshold in thresholds:
            detected = Proportion(int((faulty > threshold).sum()), len(faulty))
            low, high = detected.interval
            lines.append(
                {
                    "site": site,
                    "rate": rate,
                    "threshold": threshold,
                    "detected": detected.value,
                    "detected_low": low,
                    "detected_high": high,
                    "false_alarms": (healthy > threshold).mean() if len(healthy) else np.nan,
                    "faulty": len(faulty),
                    "healthy": len(healthy),
                    "area": area,
                }
            )
    return pd.DataFrame(lines)


def operating_points(found: pd.DataFrame) -> pd.DataFrame:
    """Return per site and fault rate the share of faulty layers above T_l, and above 0 (any change), with intervals."""
    lines = []
    for (site, rate), group in found.groupby(["site", "rate"]):
        faulty, healthy = group[group.faulty], group[~group.faulty]
        if faulty.empty:
            continue
        line = {"site": site, "rate": rate, "faulty": len(faulty), "healthy": len(healthy)}
        for name, above in (("at_threshold", faulty.score > faulty.threshold), ("at_zero", faulty.score > 0)):
            share = Proportion(int(above.sum()), len(faulty))
            line |= {name: share.value, f"{name}_low": share.interval[0], f"{name}_high": share.interval[1]}
        line["false_alarms"] = int((healthy.score > 0).sum())
        lines.append(line)
    return pd.DataFrame(lines)


def bounds(results: Results) -> pd.DataFrame:
    """Return the bounds of Eq. 8 and 9 beside what was measured, a line per deployment, technique with a check, and fault rate.

    ``missed`` is the share of the faulty layers that a check looked at and never flagged (NaN where there was no check), ``error``
    the share of the images answered wrong, ``sdc`` of those silently unlike the fault-free answer.
    """
    rows = results.drawn[results.drawn.bound_error.notna()]
    lines = []
    for names, group in _groups(rows, [*GROUP, "technique", "rate"]):
        checked = int(group.layers_missed.sum() + group.layers_detected.sum())
        missed = Proportion(int(group.layers_missed.sum()), checked) if checked else None
        accuracy, sdc = results.estimate(group), results.estimate(group, "sdc")
        lines.append(
            {
                **names,
                "shown": group.shown.iloc[0],
                "bound_missed": group.bound_missed.mean(),
                "missed": missed.value if missed else np.nan,
                "missed_low": missed.interval[0] if missed else np.nan,
                "missed_high": missed.interval[1] if missed else np.nan,
                "checked": checked,
                "bound_error": group.bound_error.mean(),
                "error": 1 - accuracy.value,
                "error_low": 1 - accuracy.high,
                "error_high": 1 - accuracy.low,
                **spread_out("sdc", sdc),
                "maps": accuracy.maps,
                "interval": accuracy.method,
            }
        )
    return pd.DataFrame(lines)


def _groups(rows: pd.DataFrame, columns: list[str]):
    """Yield the names, a dict, and the rows of each group."""
    for names, group in rows.groupby(columns, dropna=False, sort=True):
        yield dict(zip(columns, names, strict=True)), group


def _layer_order(rows: pd.DataFrame, group: pd.DataFrame) -> list[str]:
    """Return layer names in the order of the network, which the scores of a check have; else sorted."""
    checked = rows.scores.dropna()
    names = [entry[0] for entry in json.loads(checked.iloc[0])] if len(checked) else []
    return names + sorted(set(group.layer) - set(names))


def _area(faulty: np.ndarray, healthy: np.ndarray) -> float:
    """Return the probability that a faulty layer scores above a healthy one, ties counting half."""
    if not len(healthy):
        return np.nan
    above, ties = np.subtract.outer(faulty, healthy) > 0, np.equal.outer(faulty, healthy)
    return float(above.mean() + ties.mean() / 2)
