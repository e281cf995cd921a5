"""The paper's Table I beside the same cells of a campaign."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources

import numpy as np
import pandas as pd

from epsilon.report.results import Results, architecture, count_cells, place_in, technique_order, uses_golden
from epsilon.report.tables import spread_out

__all__ = [
    "MODELS",
    "MULTIPLIERS",
    "POINTS",
    "RATES",
    "best_repair",
    "paper_table",
    "printed_averages",
    "shown_techniques",
    "table1",
]

MODELS = ("VGG16", "WideResNet", "MobileNet")
MULTIPLIERS = ("KVP", "L2J", "L2H")
POINTS = ("FP1", "FP2", "FP3", "FP4")
RATES = (0.1, 0.3, 0.5)
#: The paper's techniques and what they are here; the detector of Eq. 6 first, where it was run.
COUNTERPARTS = {
    "AxVanDNN": ("vanilla",),
    "AxMENDNet": ("mendnet",),
    "EPSILON": ("epsilon/quartile/pattern", "epsilon/quartile"),
}


@lru_cache(maxsize=1)
def _lines() -> tuple[dict, ...]:
    text = resources.files("epsilon").joinpath("data_files/khalil_hoque_table1.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def paper_table() -> dict[tuple[str, str, str, str, float], float]:
    """Return the cells of Table I of [Khalil & Hoque], 0..1, by (model, multiplier, technique, fault point, rate)."""
    return {
        (line["model"], line["multiplier"], line["technique"], line["fault_point"], int(line["fault_rate_percent"]) / 100):
            float(line["accuracy_percent"]) / 100
        for line in _lines()
        if line["fault_rate_percent"]
    }  # fmt: skip


def printed_averages() -> dict[tuple[str, str, str], float]:
    """Return the averages that Table I prints, 0..1, by (model, multiplier, technique)."""
    return {
        (line["model"], line["multiplier"], line["technique"]): float(line["accuracy_percent"]) / 100
        for line in _lines()
        if line["fault_point"] == "printed_average"
    }


def best_repair(results: Results, rows: pd.DataFrame) -> str | None:
    """Return the technique ``epsilon`` with the best mean accuracy over ``rows`` that reads no golden weights; None without one.

    Chosen on the rows that it is reported for: its figure is the best of so many, not that of a choice made beforehand.
    """
    found = {}
    for technique, own in rows[rows.kind == "epsilon"].groupby("technique"):
        if not uses_golden(own) and count_cells(own) == count_cells(rows):
            found[technique] = results.estimate(own).value
    return max(technique_order(found), key=found.get, default=None)


def shown_techniques(results: Results, rows: pd.DataFrame) -> list[tuple[str, str | None]]:
    """Return the lines of Table I for one network and multiplier: technique, and its counterpart in the paper or None."""
    here = set(rows.technique)
    shown = [(name, paper) for paper, names in COUNTERPARTS.items() for name in names if name in here]
    best = best_repair(results, rows)
    return shown if best is None or best in {name for name, _ in shown} else [*shown, (best, None)]


def table1(results: Results, *, polarity: str = "1") -> pd.DataFrame:
    """Return a line per cell of Table I that the campaign has (CIFAR-10, stored weights, uniform bits), and one per average.

    Columns ``model``, ``short`` (multiplier), ``technique``, ``paper_technique``, ``point``, ``rate`` (NaN for the average over the
    cells that are there), ``accuracy`` with its interval, ``paper`` (of an average: of the same cells of the paper), ``printed``
    (the average as the paper prints it), ``cells``, ``maps``, ``images``.
    """
    rows = results.drawn
    rows = rows[(rows.dataset == "cifar10") & (rows.site == "storage") & (rows.bits == "uniform")]
    rows = rows[(rows.polarity == polarity) & rows.point.isin(POINTS)]
    rows = rows[rows.rate.round(6).isin(RATES)]
    # The paper's L2H is a circuit of EvoApproxLib's first release.
    rows = rows.assign(model=[architecture(name) for name in rows.network], short=rows.shown.replace("L2H (v1)", "L2H"))
    # The paper prints stuck-at-1 alone.
    cells, averages = (paper_table(), printed_averages()) if polarity == "1" else ({}, {})
    lines = []
    for (model, network, short), group in rows.groupby(["model", "network", "short"], sort=False):
        for technique, paper in shown_techniques(results, group):
            own = group[group.technique == technique]
            same = {"model": model, "network": network, "short": short, "technique": technique, "paper_technique": paper}
            theirs = []
            for (point, rate), here in own.groupby(["point", "rate"]):
                printed = cells.get((model, short, paper, point, round(float(rate), 2)))
                theirs.append(np.nan if printed is None else printed)
                lines.append(_line(results, here, same | {"point": point, "rate": rate, "paper": theirs[-1], "printed": np.nan}))
            printed = averages.get((model, short, paper), np.nan)
            mean = float(np.mean(theirs)) if theirs else np.nan
            lines.append(_line(results, own, same | {"point": "average", "rate": np.nan, "paper": mean, "printed": printed}))
    table = pd.DataFrame(lines)
    return table if table.empty else _in_order(table)


def _line(results: Results, rows: pd.DataFrame, names: dict) -> dict:
    estimate = results.estimate(rows)
    return {
        **names,
        **spread_out("accuracy", estimate),
        **spread_out("fault_free", results.fault_free(rows)),
        **spread_out("to_fault_free", results.loss(rows)),
        "cells": count_cells(rows),
        "maps": estimate.maps,
        "images": estimate.images,
        "interval": estimate.method,
    }


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    keys = pd.DataFrame(
        {
            "model": [place_in(MODELS, name) for name in table.model],
            "network": table.network,
            "short": [place_in(MULTIPLIERS, name) for name in table.short],
            "other": table.short,
        }
    )
    return table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)
