"""Intervals for means over fault maps and images, by resampling both.

All techniques of a campaign run on the same fault maps and the same images, so maps and images are two crossed factors. Both are
resampled independently (the pigeonhole bootstrap), every image weight being shared by all rows and every map weight by all
techniques on that map; the difference of two rows is therefore paired without further ado.

Ref: A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007, pp. 386-411.
Ref: J. N. K. Rao, C. F. J. Wu, "Resampling inference with complex survey data", JASA 83(401), 1988, pp. 231-241: of n clusters
n - 1 are drawn, which leaves the variance unbiased; drawing n of the few maps of a campaign would understate it by (n - 1) / n.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from epsilon.statistics import CONFIDENCE, Proportion, require_confidence

__all__ = ["RESAMPLES", "Cell", "Estimate", "Resampler", "unpaired_difference"]

RESAMPLES = 2000
#: Rows whose image weights are applied at once.
BLOCK = 256


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Parameters
    ----------
    value, low, high : float
    maps : int
        Fault maps behind it; where cells have different maps, all of them.
    images : int
        Images that each map was run on.
    method : str
        What the interval covers: ``maps and images``, ``maps``, or (where each cell has one map) ``images``.
    """

    value: float
    low: float
    high: float
    maps: int
    images: int
    method: str


@dataclass(frozen=True, eq=False)
class Cell:
    """One point of a campaign (network, fault point, rate, technique, ...) with all its fault maps.

    Parameters
    ----------
    values : float (maps,)
        The measured mean over the images, one per map.
    replicates : float (maps, resamples)
        The same means over resampled images; see ``Resampler.image_replicates``.
    cluster : hashable
        Cells with the same cluster have the same maps, in the same order, and are resampled together.
    """

    values: np.ndarray
    replicates: np.ndarray
    cluster: Hashable = None


class Resampler:
    """Draws the weights of maps and images; the same seed gives the same intervals.

    Parameters
    ----------
    confidence : float
    resamples : int
        At least 100.
    seed : int
        At least 0.
    """

    def __init__(self, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 1) -> None:
        if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 100:
            raise ValueError(f"The number of resamples must be an integer of at least 100, not {resamples!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"The seed must be an integer of at least 0, not {seed!r}")
        self.confidence = require_confidence(confidence)
        self.resamples = resamples
        self.seed = seed

    def image_replicates(self, hits: np.ndarray, images: Hashable) -> np.ndarray:
        """Return the mean of each row over every resampled set of images, float32 (rows, resamples).

        Parameters
        ----------
        hits : uint8 or bool (rows, images)
            Per image 0 or 1.
        images : hashable
            Name of the set of images: rows on the same set get the same weights.
        """
        count = hits.shape[1]
        rng = self._rng("images", images, count)
        drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(self.resamples))
        weights = np.stack([weight.astype(np.float32) for weight in drawn], axis=1)
        blocks = [hits[start : start + BLOCK].astype(np.float32) @ weights for start in range(0, len(hits), BLOCK)]
        return np.concatenate(blocks) / np.float32(count)

    def mean(self, cells: Sequence[Cell], *, images: int, signed: bool = False) -> Estimate:
        """Return the mean over cells of the mean over maps, each cell with the same weight.

        Parameters
        ----------
        images : int
            Images that each map was run on.
        signed : bool
            Whether the values are differences (-1..1) instead of proportions (0..1).
        """
        if not cells:
            raise ValueError("A mean needs at least one cell")
        value = float(np.mean([cell.values.mean() for cell in cells]))
        maps = max(len(cell.values) for cell in cells)
        total = sum({cell.cluster: len(cell.values) for cell in cells}.values())
        varied = any(np.ptp(cell.replicates, axis=1).any() for cell in cells)
        method = " and ".join(name for name, here in (("maps", maps > 1), ("images", varied)) if here)
        drawn = np.mean([self._over_maps(cell) for cell in cells], axis=0)
        tail = (1 - self.confidence) / 2
        low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
        if high - low < 1e-9 or (not signed and len(cells) == maps == 1):
            low, high, method = self._without_resampling(value, images, signed)
        # Quantiles of resamples may leave the value itself out by a rounding of float32.
        return Estimate(value, min(low, value), max(high, value), total, images, method)

    def _over_maps(self, cell: Cell) -> np.ndarray:
        count = len(cell.values)
        if count == 1:
            return cell.replicates[0].astype(np.float64)
        rng = self._rng("maps", cell.cluster, count)
        weights = rng.multinomial(count - 1, np.full(count, 1 / count), size=self.resamples) / (count - 1)
        return np.einsum("bm,mb->b", weights, cell.replicates)

    def _without_resampling(self, value: float, images: int, signed: bool) -> tuple[float, float, str]:
        """Return Wilson's interval over the images of one map: for a single row, and where every resample is alike."""
        if not signed:
            return *Proportion(min(images, max(0, round(value * images))), images).wilson(self.confidence), "images"
        # Two rows that never differ: neither way of differing is more frequent than what Wilson leaves open for 0 of n.
        most = Proportion(0, images).wilson(self.confidence)[1]
        return value - most, value + most, "images"

    def _rng(self, kind: str, name: Hashable, count: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(f"{kind}/{name!r}/{count}".encode())])


def unpaired_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return first - second from their intervals alone; wider than the paired interval where both rise and fall together.

    Ref: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven methods",
    Statistics in Medicine 17(8), 1998, pp. 873-890, method 10.
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, first.maps, first.images, f"{first.method}, not paired")
