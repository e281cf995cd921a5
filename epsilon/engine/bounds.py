"""How large sums can become: computed from the actual weights, so that no path runs where it would not be exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "FLOAT32_EXACT",
    "WINOGRAD_EXACT",
    "AccumulatorError",
    "Part",
    "common_power_of_two",
    "largest_sum",
    "require_int32",
    "split_reduction",
]

#: float32 holds every integer up to here.
FLOAT32_EXACT = 2**24
#: Accumulators are int32.
INT32 = 2**31
#: What is left of 32 bits when Winograd's sums are divided by 64.
WINOGRAD_EXACT = 2**25


class AccumulatorError(ValueError):
    """A layer whose sums could leave the 32 bits of an accumulator."""


@dataclass(frozen=True)
class Part:
    """Input channels ``start`` to ``stop`` of the reduction, summed in float32 or float64."""

    start: int
    stop: int
    double: bool


def largest_sum(seen: np.ndarray, table: np.ndarray) -> int:
    """Return the greatest magnitude that the sum of any output can take for any activations.

    Parameters
    ----------
    seen : int8 (N, K)
        The weights as the multipliers see them.
    table : int (256, 256)
        Index ``[activation + 128, weight + 128]``.
    """
    wide = table.astype(np.int64)
    lowest, highest = wide.min(axis=0), wide.max(axis=0)
    index = seen.astype(np.int16) + 128
    # A partial sum lies between the sums of the negative and of the positive parts.
    negative = np.minimum(lowest, 0)[index].sum(axis=1)
    positive = np.maximum(highest, 0)[index].sum(axis=1)
    return int(max(-negative.min(initial=0), positive.max(initial=0)))


def require_int32(name: str, largest: int) -> None:
    """Raise AccumulatorError where sums could reach ``largest`` and that is more than an accumulator holds."""
    if largest >= INT32:
        raise AccumulatorError(f"The sums of layer {name!r} could reach {largest}, more than 32 bits hold")


def common_power_of_two(a_maps: np.ndarray, b_maps: np.ndarray) -> int:
    """Return the greatest power of two that divides every product of every term.

    Parameters
    ----------
    a_maps, b_maps : int64 (terms, 256)
    """
    found = 2**14
    for a_map, b_map in zip(a_maps, b_maps, strict=True):
        factors = [int(np.bitwise_or.reduce(np.abs(mapping))) for mapping in (a_map, b_map)]
        if all(factors):
            found = min(found, (factors[0] & -factors[0]) * (factors[1] & -factors[1]))
    return found


def split_reduction(reach: np.ndarray, limit: int) -> list[Part]:
    """Cut a reduction into parts whose float32 sums stay exact.

    Parameters
    ----------
    reach : int64 (N, channels)
        What an input channel can add to each output's sum at most, over all terms and places of the kernel.
    limit : int
        What no sum may reach.

    Returns
    -------
    Parts that cover all channels once; a single one in float64 where one channel alone could reach the limit.
    """
    channels = reach.shape[1]
    if not reach.size or int(reach.sum(axis=1).max()) < limit:
        return [Part(0, channels, False)]
    if int(reach.max()) >= limit:
        return [Part(0, channels, True)]
    parts, start, sums = [], 0, np.zeros(len(reach), dtype=np.int64)
    for channel in range(channels):
        if int((sums + reach[:, channel]).max()) >= limit:
            parts.append(Part(start, channel, False))
            start, sums = channel, np.zeros(len(reach), dtype=np.int64)
        sums = sums + reach[:, channel]
    return [*parts, Part(start, channels, False)]
