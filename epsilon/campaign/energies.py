"""The energy of rows: counted when a unit runs, and again under another table, for rows keep their events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from epsilon.campaign.schema import compact
from epsilon.energy import EnergyTable, Events, energy
from epsilon.multipliers import Multiplier, catalogue

if TYPE_CHECKING:
    import pandas

__all__ = ["energy_columns", "recomputed"]

UNKNOWN = {"energy_pj": None, "energy_parts": None}


def energy_columns(events: Events, table: EnergyTable, multiplier: Multiplier | None, *, kind: str) -> dict:
    """Return ``energy_pj`` and ``energy_parts`` of a row; None where nobody knows what a product of the multiplier costs.

    Parameters
    ----------
    multiplier : Multiplier or None
        None: one that nothing is published of.
    kind : str
        Of the technique.
    """
    parts = energy(events, table, multiplier, secded=kind == "secded")
    if parts is None:
        return UNKNOWN
    return {"energy_pj": sum(parts.values()), "energy_parts": compact(parts)}


def recomputed(rows: pandas.DataFrame, table: EnergyTable) -> pandas.DataFrame:
    """Return the rows of a campaign with the energies of a table; those that hold no events have none."""
    published = catalogue()
    found = [
        energy_columns(Events(**json.loads(events)), table, published.get(multiplier), kind=kind)
        if isinstance(events, str)
        else UNKNOWN
        for events, multiplier, kind in zip(rows.events, rows.multiplier, rows.kind, strict=True)
    ]
    return rows.assign(**{name: [each[name] for each in found] for name in UNKNOWN})
