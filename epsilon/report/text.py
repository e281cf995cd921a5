"""How a report writes numbers and says what they come from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from epsilon.energy import EnergyTable

__all__ = [
    "DASH",
    "basis",
    "energy_sources",
    "interval",
    "number",
    "plain_interval",
    "plain_points",
    "plural",
    "points",
    "scenario",
]

#: Where there is no value.
DASH = "-"


def interval(row: Mapping[str, float], name: str) -> str:
    """Return a proportion of a table in percent with its interval, HTML."""
    return _with_interval(row, name, ".2f", "<small>{}</small>")


def points(row: Mapping[str, float], name: str) -> str:
    """Return a difference of a table in percentage points with its interval, HTML."""
    return _with_interval(row, name, "+.2f", "<small>{}</small>")


def plain_interval(row: Mapping[str, float], name: str) -> str:
    """Return a proportion in percent with its interval, plain text."""
    return _with_interval(row, name, ".2f", "{}")


def plain_points(row: Mapping[str, float], name: str) -> str:
    """Return a difference in percentage points with its interval, plain text."""
    return _with_interval(row, name, "+.2f", "{}")


def number(value: float) -> str:
    """Return a number with thousands separated and four digits, a dash where it is not known."""
    if np.isnan(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def plural(count: int, name: str) -> str:
    """Return a count with the name of what is counted."""
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def scenario(site: str, polarity: str, bits: str) -> str:
    """Return what kind of faults these are."""
    where = {"storage": "stored weights", "array": "PEs"}.get(site, site)
    stuck = "both" if polarity == "both" else polarity
    return f"stuck-at-{stuck} in {where}" + ("" if bits == "uniform" else f", bits {bits}")


def basis(rows: pd.DataFrame) -> str:
    """Return how many runs, fault maps and images rows are, and of which networks and points."""
    images = "/".join(f"{count:,}" for count in sorted(rows.images.unique()))
    splits = "/".join(sorted(rows.split.unique()))
    rates = ", ".join(f"{100 * rate:g}" for rate in sorted(rows.rate.unique()))
    where = ", ".join(sorted(rows.point.unique()))
    return (
        f"{plural(len(rows), 'run')}, {plural(rows.map_digest.nunique(), 'fault map')}, {images} images of the {splits} split "
        f"each; fault points {where}; fault rates {rates} %"
    )


def energy_sources(table: EnergyTable) -> str:
    """Return a sentence, plain text, that says where the energies of a table of the user's own are from."""
    shipped = EnergyTable.default().entries
    own = {name: entry for name, entry in table.entries.items() if entry != shipped.get(name)}
    by_source: dict[str, list[str]] = {}
    for name, entry in own.items():
        by_source.setdefault(" ".join(f"{entry.source} ({entry.technology})".split()), []).append(f"{name} {entry.pj:g} pJ")
    told = [f"{', '.join(names)} from {source}" for source, names in by_source.items()]
    if own.keys() != table.entries.keys():
        told.append("the others are those that the project ships")
    return f"Energies are computed from the counted events of the rows with a table of one's own: {'; '.join(told)}."


def _with_interval(row: Mapping[str, float], name: str, form: str, around: str) -> str:
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return DASH if np.isnan(value) else f"{value:{form}} " + around.format(f"[{low:{form}}, {high:{form}}]")
