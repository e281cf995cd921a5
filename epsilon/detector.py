"""Policies that decide from scan records whether a layer is faulty."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import numpy as np

from epsilon.accelerator import ScanRecords
from epsilon.signatures import GROUPS, ScannedSignature

__all__ = ["DETECTORS", "Detector", "ExactDetector", "PatternDetector", "get_detector"]


class Detector(Protocol):
    """Compares what the signature unit counts now with the reference; a layer is faulty when its score is above its threshold."""

    name: str

    def score(self, reference: ScanRecords, current: ScanRecords) -> float:
        """Return how far the records are from the reference, 0 when they are equal."""

    def threshold(self, layer_threshold: float) -> float:
        """Return what the score of a layer is compared with, given its T_l (Eq. 3, units of the weight range)."""


class PatternDetector:
    """Implements Eq. (6) of [Khalil & Hoque]: the change of the sparsity pattern, against T_l.

    The sum runs over the entries of the layer's own pattern (the index that is printed, layers, cannot be meant).

    Parameters
    ----------
    groups : int
        Entries of the sparsity pattern, 1..64 (at most one per output channel is used).
    """

    name = "pattern"

    def __init__(self, groups: int = GROUPS) -> None:
        if isinstance(groups, bool) or not isinstance(groups, int) or not 1 <= groups <= GROUPS:
            raise ValueError(f"A sparsity pattern has from 1 to {GROUPS} groups, not {groups!r}")
        self.groups = groups

    def score(self, reference: ScanRecords, current: ScanRecords) -> float:
        before, now = (ScannedSignature.from_records(records, self.groups).rho for records in (reference, current))
        return float(np.abs(before - now).sum())

    def threshold(self, layer_threshold: float) -> float:
        return layer_threshold


class ExactDetector:
    """A layer is faulty as soon as any count of any output channel changed; the score is the number of such channels.

    Weights are digital, so a healthy layer never changes a count and there is no false alarm. Missed are only changes within one
    channel that leave its sum, its sum of squares, its zeros and its quartile counts as they were.
    """

    name = "exact"

    def score(self, reference: ScanRecords, current: ScanRecords) -> float:
        changed = np.zeros(len(reference.count), dtype=bool)
        for entry in fields(ScanRecords):
            before, now = getattr(reference, entry.name), getattr(current, entry.name)
            changed |= (before != now).reshape(len(changed), -1).any(axis=1)
        return float(np.count_nonzero(changed))

    def threshold(self, layer_threshold: float) -> float:
        return 0.0


DETECTORS = {kind.name: kind for kind in (PatternDetector, ExactDetector)}


def get_detector(name: str | Detector) -> Detector:
    """Return the detector of that name.

    Raises
    ------
    ValueError
        When there is none.
    """
    if not isinstance(name, str):
        return name
    if name not in DETECTORS:
        raise ValueError(f"The detector must be one of {', '.join(DETECTORS)}, not {name!r}")
    return DETECTORS[name]()
