"""What a weight was before some of its bits got stuck: estimates from the bits that are left and from the layer's signature."""

from __future__ import annotations

import numpy as np

__all__ = ["distinct", "expected", "most_probable"]

CODES = np.arange(-128, 128)
#: How much more a code weighs that the certain weights leave over than one that they account for: after an earlier repair some of
#: them are no longer what they were.
LEFT_OVER = 15
#: A code that the histogram does not have at all weighs one in this many.
ABSENT = 1000
#: Fixed point of estimates, so that every machine adds them up alike.
POINT = 256


def most_probable(seen: np.ndarray, uncertain: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """Return the code that occurs most often among those that agree with ``seen`` in every certain bit.

    Parameters
    ----------
    seen : int8 (N, K)
    uncertain : uint8 (N, K)
        A set bit may have any value.
    histogram : int (256,)
        Occurrences of each code, index ``code + 128``. Equally frequent: the smaller magnitude, then the lower code.

    Returns
    -------
    int8 (N, K)
    """
    preference = np.lexsort((CODES, np.abs(CODES), -histogram))
    rank = np.empty(256, dtype=np.int64)
    rank[preference] = np.arange(256)
    masks, which = distinct(uncertain)
    tables = np.empty((len(masks), 256), dtype=np.int8)
    for table, mask in zip(tables, masks, strict=True):
        certain = _certain_bits(mask)
        best = np.full(256, 256)
        np.minimum.at(best, certain, rank)
        table[:] = CODES[preference[best[certain]]]
    return tables[which, seen.astype(np.int16) + 128]


def expected(seen: np.ndarray, uncertain: np.ndarray, histogram: np.ndarray, totals: np.ndarray, used: int = 0xFF) -> np.ndarray:
    """Return the expected code given the certain bits, the layer's histogram and the sum of each output channel's codes.

    The histogram is of these very weights: what the certain ones leave over of it are the codes of the others. What the codes of a
    channel lack to their known sum is shared among its uncertain weights, in proportion to their variance.

    Parameters
    ----------
    seen, uncertain, histogram : as for ``most_probable``
    totals : int (N,)
        Sums of the golden codes, ignored bits cleared.
    used : int
        Mask of the bits that count; the others are cleared in the result.

    Returns
    -------
    int8 (N, K)
    """
    keep = np.uint8(used).view(np.int8)
    weight = _weights(seen, uncertain, histogram, keep)
    masks, which = distinct(uncertain)
    means, variances = np.zeros((2, len(masks), 256), dtype=np.int64)
    for mean, variance, mask in zip(means, variances, masks, strict=True):
        certain = _certain_bits(mask)
        # Sums over all codes that agree: how many, of the codes, of their squares; whole numbers below 2**53.
        count, total, squares = (np.bincount(certain, weight * CODES**power, 256)[certain] for power in range(3))
        count = np.maximum(count, 1)
        mean[:] = np.rint(POINT * total / count)
        variance[:] = np.rint(POINT * (squares / count - (total / count) ** 2))
    index = (seen & keep).astype(np.int16) + 128
    mean, variance = means[which, index], variances[which, index]
    mean[uncertain == 0], variance[uncertain == 0] = POINT * (index - 128)[uncertain == 0], 0
    lacking = POINT * totals - mean.sum(axis=1)
    share = variance / np.maximum(variance.sum(axis=1), 1)[:, None]
    return np.rint((mean + share * lacking[:, None]) / POINT).clip(-128, 127).astype(np.int8) & keep


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of 8- or 16-bit keys, sorted, and the index of each key's value."""
    present = np.flatnonzero(np.bincount(keys.reshape(-1), minlength=1))
    index = np.empty(present[-1] + 1, dtype=np.intp)
    index[present] = np.arange(len(present))
    return present, index[keys]


def _certain_bits(mask: int) -> np.ndarray:
    """Return the certain bits of every code, one number per set of codes that agree in them."""
    return CODES.astype(np.int8).view(np.uint8) & ~np.uint8(mask)


def _weights(seen: np.ndarray, uncertain: np.ndarray, histogram: np.ndarray, keep: np.int8) -> np.ndarray:
    """Return how likely each code is for an uncertain weight, as whole numbers; 0 for those with an ignored bit set."""
    masked = CODES.astype(np.int8) & keep
    folded = np.zeros(256, dtype=np.int64)
    np.add.at(folded, masked.astype(np.int16) + 128, histogram)
    certain = (seen & keep)[uncertain == 0].astype(np.int16) + 128
    left_over = np.maximum(folded - np.bincount(certain, minlength=256), 0)
    return np.where(masked == CODES, ABSENT * (LEFT_OVER * left_over + folded) + 1, 0)
