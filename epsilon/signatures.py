"""Statistical signatures of a layer's weights, from the tensor and from what the signature unit reads out of the array.

Implements Eq. (1) of [Khalil & Hoque] on the int8 codes that the multipliers see: S_l = (mean, standard deviation, quartiles,
sparsity pattern rho), with rho the fraction of zero codes in each of at most 64 groups of output channels, and beside it the
histogram of all 256 codes. Every figure comes from integer counts, so both ways to a signature give the same floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from epsilon.accelerator import ScanRecords
from epsilon.network import WeightedLayer

__all__ = [
    "GROUPS",
    "ScannedSignature",
    "Signature",
    "count_records",
    "golden_quartiles",
    "golden_records",
    "golden_signature",
    "quartiles",
    "same_records",
]

Result = TypeVar("Result")
#: Most entries of a layer's sparsity pattern.
GROUPS = 64


@dataclass(frozen=True, eq=False)
class ScannedSignature:
    """What the signature unit tells of a layer.

    Parameters
    ----------
    count : int
        Weights.
    mean, std : float
        Of the codes.
    rho : float64 (G,)
        Fraction of zero codes in each group of output channels.
    at_most : int64 (3,)
        Weights that are not above each of the golden quartiles.
    """

    count: int
    mean: float
    std: float
    rho: np.ndarray
    at_most: np.ndarray

    @classmethod
    def from_records(cls, records: ScanRecords, groups: int = GROUPS) -> ScannedSignature:
        """Return the signature of a layer's scan records."""
        count = int(records.count.sum())
        mean, std = _moments(count, int(records.total.sum()), int(records.total_squares.sum()))
        rho = _zero_fractions(records.zeros, records.count, groups)
        return cls(count, mean, std, rho, records.at_most.sum(axis=0))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScannedSignature):
            return NotImplemented
        same = (self.count, self.mean, self.std) == (other.count, other.mean, other.std)
        return same and np.array_equal(self.rho, other.rho) and np.array_equal(self.at_most, other.at_most)

    __hash__ = None


@dataclass(frozen=True, eq=False)
class Signature:
    """The statistics of a layer's codes.

    Parameters
    ----------
    count : int
        Weights.
    mean, std : float
        Of the codes (the standard deviation of the population).
    quartiles : (int, int, int)
        Q1, Q2, Q3 by nearest rank.
    rho : float64 (G,)
        Fraction of zero codes in each group of output channels.
    histogram : int64 (256,)
        Occurrences of each code, index ``code + 128``.
    """

    count: int
    mean: float
    std: float
    quartiles: tuple[int, int, int]
    rho: np.ndarray
    histogram: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, groups: int = GROUPS) -> Signature:
        """Return the signature of codes, int8 (N, K), with a sparsity pattern of at most ``groups`` entries."""
        _require_codes(codes)
        histogram = np.bincount(codes.reshape(-1).astype(np.int64) + 128, minlength=256)
        values = np.arange(-128, 128)
        mean, std = _moments(codes.size, int(histogram @ values), int(histogram @ values**2))
        zeros = np.count_nonzero(codes == 0, axis=1)
        rho = _zero_fractions(zeros, np.full(len(codes), codes.shape[1]), groups)
        return cls(codes.size, mean, std, quartiles(codes), rho, histogram)

    def scanned(self, levels: tuple[int, int, int]) -> ScannedSignature:
        """Return what the signature unit, comparing with ``levels``, must tell of the same codes."""
        at_most = np.cumsum(self.histogram)[np.array(levels) + 128]
        return ScannedSignature(self.count, self.mean, self.std, self.rho, at_most)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        # The histogram holds everything but where the zeros are.
        return np.array_equal(self.histogram, other.histogram) and np.array_equal(self.rho, other.rho)

    __hash__ = None


def quartiles(codes: np.ndarray) -> tuple[int, int, int]:
    """Return the quartiles Q1, Q2, Q3 of int8 codes by nearest rank (codes that occur, no interpolation)."""
    found = np.quantile(codes.reshape(-1).astype(np.int16), (0.25, 0.5, 0.75), method="inverted_cdf")
    return tuple(int(code) for code in found)


def _once_per_layer(function: Callable[[WeightedLayer], Result]) -> Callable[[WeightedLayer], Result]:
    """Return the function with a memory: golden weights never change, so what follows from them is computed once."""
    known: WeakKeyDictionary[WeightedLayer, Result] = WeakKeyDictionary()

    @wraps(function)
    def remembered(layer: WeightedLayer) -> Result:
        if layer not in known:
            known[layer] = function(layer)
        return known[layer]

    return remembered


@_once_per_layer
def golden_signature(layer: WeightedLayer) -> Signature:
    """Return the signature of a layer's golden weights."""
    return Signature.of(layer.matrix)


def golden_quartiles(layer: WeightedLayer) -> tuple[int, int, int]:
    """Return the quartiles of a layer's golden weights, the comparison levels of the signature unit."""
    return golden_signature(layer).quartiles


@_once_per_layer
def golden_records(layer: WeightedLayer) -> ScanRecords:
    """Return what the signature unit counts of a layer's golden weights."""
    return count_records(layer.matrix, golden_quartiles(layer))


def count_records(codes: np.ndarray, levels: tuple[int, int, int]) -> ScanRecords:
    """Return what the signature unit counts of codes, int8 (N, K), comparing with ``levels``: its golden definition."""
    _require_codes(codes)
    wide = codes.astype(np.int64)
    return ScanRecords(
        count=np.full(len(codes), codes.shape[1], dtype=np.int64),
        total=wide.sum(axis=1),
        total_squares=(wide * wide).sum(axis=1),
        zeros=np.count_nonzero(codes == 0, axis=1).astype(np.int64),
        at_most=np.stack([np.count_nonzero(codes <= level, axis=1) for level in levels], axis=1).astype(np.int64),
    )


def same_records(one: ScanRecords, two: ScanRecords) -> bool:
    """Return whether two records agree in every count."""
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ScanRecords.__dataclass_fields__)


def _moments(count: int, total: int, squares: int) -> tuple[float, float]:
    # Exact rationals, rounded once: equal counts give equal floats, whoever counted.
    mean = Fraction(total, count)
    return float(mean), float(Fraction(squares, count) - mean * mean) ** 0.5


def _zero_fractions(zeros: np.ndarray, count: np.ndarray, groups: int) -> np.ndarray:
    if not 1 <= groups <= GROUPS:
        raise ValueError(f"A sparsity pattern has from 1 to {GROUPS} groups, not {groups!r}")
    channels = len(zeros)
    entries = min(groups, channels)
    # Neighbouring channels, spread as evenly as they go.
    starts = np.arange(entries) * channels // entries
    return np.add.reduceat(zeros, starts) / np.add.reduceat(count, starts)


def _require_codes(codes: np.ndarray) -> None:
    if codes.dtype != np.int8 or codes.ndim != 2 or not codes.size:
        raise ValueError(f"The codes of a layer must be int8 (N, K), not {codes.dtype} {codes.shape}")
