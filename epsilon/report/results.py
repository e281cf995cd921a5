"""The rows of a campaign, ready to be averaged: what belongs together, and means, rates and differences with their intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from epsilon.campaign.energies import recomputed
from epsilon.campaign.schema import KINDS
from epsilon.energy import EnergyTable
from epsilon.multipliers import catalogue
from epsilon.resampling import Cell, Estimate, Resampler, unpaired_difference
from epsilon.statistics import Proportion

__all__ = [
    "DEPLOYMENT",
    "MAP",
    "SCENARIO",
    "Results",
    "architecture",
    "count_cells",
    "multiplier_name",
    "place_in",
    "technique_order",
    "uses_golden",
]

#: What the accelerator is: one network under one multiplier on one array, and the images that it was given.
DEPLOYMENT = ["dataset", "split", "images", "network", "network_digest", "multiplier", "function", "rows", "cols"]
#: What kind of faults it has.
SCENARIO = ["site", "polarity", "bits"]
#: One fault map of a campaign: techniques are compared on the same one.
MAP = [*DEPLOYMENT, *SCENARIO, "point", "rate", "bit", "seed", "map_digest"]
#: One point of a campaign, whose rows differ in the fault map alone.
CELL = [*DEPLOYMENT, *SCENARIO, "point", "rate", "bit", "technique", "gamma", "alpha"]
#: Techniques that give the same answers as long as nothing is faulty: they take the same exits.
FAMILIES = {"vanilla": "last exit", "mendnet": "energy", "exits": "exits", "epsilon": "exits", "secded": "exits"}
REPAIR_ORDER = ("quartile", "clip", "zero", "nearest", "invert")


class Results:
    """The rows of a campaign.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns of ``epsilon.campaign.schema.COLUMNS``.
    resampler : Resampler, optional
    energies : EnergyTable, optional
        Energies of events in place of those that the rows were made with.

    Raises
    ------
    ValueError
        When there is no row.
    """

    def __init__(self, frame: pd.DataFrame, resampler: Resampler | None = None, *, energies: EnergyTable | None = None) -> None:
        if frame.empty:
            raise ValueError("The results file has no row yet: nothing can be reported")
        self.resampler = resampler or Resampler()
        self.energies = energies
        self.frame = _prepared(frame if energies is None else recomputed(frame, energies))
        self._replicates = self._resampled_images()
        self._healthy = self._healthy_rows()

    @cached_property
    def base(self) -> pd.DataFrame:
        """Rows with faults, under the thresholds that the network came with; of campaigns on few and many images the latter."""
        frame = self.frame
        found = frame[(frame.rate > 0) & (frame.gamma_fitted == 1) & frame.alpha.isna()]
        alike = found.assign(drawn=found.bit.isna()).groupby(
            [*(name for name in DEPLOYMENT if name != "images"), *SCENARIO, "drawn"]
        )
        return found[found.images == alike.images.transform("max")]

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """Those of ``base`` whose stuck bits were drawn, and not chosen."""
        return self.base[self.base.bit.isna()]

    def estimate(self, rows: pd.DataFrame, column: str = "correct") -> Estimate:
        """Return the mean over cells of a count per image, as ``correct`` or ``sdc``; the rows are of one technique.

        Of ``correct`` the interval covers maps and images, of other counts maps alone (images are known only for ``correct``),
        or, where every cell has one map, the images.
        """
        rates = (rows[column] / rows.images).to_numpy(float)
        known = column == "correct"
        return self._mean(rows, rates, self._replicates[rows.index] if known else _constant(rates, self.resampler), signed=False)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame) -> Estimate | None:
        """Return the mean accuracy of ``rows`` minus that of ``others`` on the same maps and images; None where they share none."""
        columns = [*MAP, "position"]
        both = rows.assign(position=rows.index)[columns].merge(
            others.assign(position=others.index)[columns], on=MAP, suffixes=("", "_other"), validate="many_to_many"
        )
        if both.empty:
            return None
        first, second = both.position.to_numpy(), both.position_other.to_numpy()
        values = self.frame.accuracy.to_numpy()
        return self._mean(
            rows.loc[first], values[first] - values[second], self._replicates[first] - self._replicates[second], signed=True
        )

    def fault_free(self, rows: pd.DataFrame) -> Estimate:
        """Return the accuracy of the same exits without faults, mean over deployments, with Wilson's interval."""
        each = rows.drop_duplicates([*DEPLOYMENT, "correct_fault_free"])
        total = int(each.images.iloc[0])
        share = each.correct_fault_free.sum() / each.images.sum()
        return Estimate(float(share), *self._wilson(round(share * total), total), 0, total, "images")

    def loss(self, rows: pd.DataFrame) -> Estimate:
        """Return the mean accuracy minus the fault-free one of the same exits.

        Paired over the images where the file has a row of the same exits without faults; else from the two intervals.
        """
        healthy = rows.index.map(self._healthy)
        if healthy.isna().any():
            return unpaired_difference(self.estimate(rows), self.fault_free(rows))
        healthy = healthy.to_numpy(int)
        values = self.frame.accuracy.to_numpy()
        first = rows.index.to_numpy()
        return self._mean(rows, values[first] - values[healthy], self._replicates[first] - self._replicates[healthy], signed=True)

    def _mean(self, rows: pd.DataFrame, values: np.ndarray, replicates: np.ndarray, *, signed: bool) -> Estimate:
        order = np.lexsort((rows.seed.to_numpy(), rows.cell.to_numpy()))
        starts = np.flatnonzero(np.diff(rows.cell.to_numpy()[order], prepend=-1))
        cells = []
        for at in np.split(order, starts[1:]):
            first = rows.iloc[at[0]]
            # Maps of the same seeds at the same place hold each other's faults, whatever rate, bit or multiplier.
            seeds = tuple(int(seed) for seed in rows.seed.iloc[at])
            cells.append(Cell(values[at], replicates[at], (first.network_digest, first.site, first.point, seeds)))
        return self.resampler.mean(cells, images=int(rows.images.min()), signed=signed)

    def _resampled_images(self) -> np.ndarray:
        frame = self.frame
        found = _constant(frame.accuracy.to_numpy(float), self.resampler)
        for names, rows in frame.groupby(["dataset", "split", "images"], sort=True):
            known = rows.index[rows.correct_bits.notna()]
            if len(known):
                count = int(names[2])
                hits = np.stack([_unpacked(bits, count) for bits in rows.correct_bits[known]])
                found[known] = self.resampler.image_replicates(hits, tuple(map(str, names)))
        return found

    def _healthy_rows(self) -> dict[int, int]:
        """Return for each row the row of the same exits without faults, on the same images; rows without one are left out."""
        frame = self.frame.assign(family=self.frame.kind.map(FAMILIES), position=self.frame.index)
        on = [*DEPLOYMENT, "family", "correct_fault_free"]
        healthy = frame[(frame.faults == 0) & (frame.correct == frame.correct_fault_free) & frame.correct_bits.notna()]
        healthy = healthy.drop_duplicates(on)[[*on, "position"]]
        both = frame[[*on, "position"]].merge(healthy, on=on, suffixes=("", "_healthy"))
        return dict(zip(both.position.tolist(), both.position_healthy.tolist(), strict=True))

    def _wilson(self, hits: int, total: int) -> tuple[float, float]:
        return Proportion(hits, total).wilson(self.resampler.confidence)


def multiplier_name(key: str) -> str:
    """Return the short name of a published circuit (with its release where that is not the usual one), else the key."""
    found = catalogue().get(key)
    if found is None or found.release == "adapt":
        return key
    return found.short_name if found.release == "v2022" else f"{found.short_name} ({found.release})"


def architecture(network: str) -> str | None:
    """Return the paper's name of the architecture that a network's name begins with, or None."""
    names = {"vgg16": "VGG16", "wideresnet": "WideResNet", "mobilenet": "MobileNet"}
    return next((name for prefix, name in names.items() if network.lower().startswith(prefix)), None)


def technique_order(techniques: Sequence[str]) -> list[str]:
    """Return technique names from the least protection to the most."""

    def place(name: str) -> tuple:
        kind, *rest = name.split("/")
        repair = rest[0] if rest else ""
        return (place_in(KINDS, kind), place_in(REPAIR_ORDER, repair), name)

    return sorted(set(techniques), key=place)


def count_cells(rows: pd.DataFrame) -> int:
    """Return how many points of a campaign (fault point and rate) the rows of one deployment have."""
    return len(rows.drop_duplicates(["point", "rate"]))


def uses_golden(rows: pd.DataFrame) -> bool:
    """Return whether the technique of these rows reads golden weights from memory."""
    first = rows.iloc[0]
    automatic = first.repair in ("nearest", "invert") and first.target in (None, "auto") and first.site == "array"
    return bool(first.target == "golden" or automatic)


def place_in(order: Sequence[str], name: str) -> int:
    """Return where a name stands in an order, behind all of them where it does not."""
    return order.index(name) if name in order else len(order)


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values("key").reset_index(drop=True)
    texts = ["configuration", "target", "repair", "detector", "scores", "exits", "energy_parts"]
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    for name in ("bit", "alpha", "gamma", "energy_pj", "first_check", "bound_missed", "bound_error", "words_uncorrectable"):
        frame[name] = pd.to_numeric(frame[name]).astype(float)
    frame["polarity"] = frame.polarity.astype(str)
    splits = [json.loads(text).get("split") if text else None for text in frame.configuration]
    frame["split"] = ["test" if split is None else split for split in splits]
    frame["accuracy"] = frame.correct / frame.images
    frame["cycles"] = frame.run_cycles + frame.scan_cycles + frame.probe_cycles
    frame["cell"] = frame.groupby(CELL, dropna=False, sort=True).ngroup()
    frame["shown"] = [multiplier_name(key) for key in frame.multiplier]
    return frame


def _constant(values: np.ndarray, resampler: Resampler) -> np.ndarray:
    return np.repeat(values.astype(np.float32)[:, None], resampler.resamples, axis=1)


def _unpacked(bits: bytes, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count)
