"""Weight registers under a code that corrects one wrong bit and detects two: the costly protection to compare with.

Ref: M. Y. Hsiao, "A Class of Optimal Minimum Odd-weight-column SEC-DED Codes", IBM J. Res. Dev. 14(4), 1970, pp. 395-401.

Each 8-bit weight is stored with 5 check bits, a (13,8) code word. Of the data bits one that differs from the word written is
corrected wherever the word is used; two or more are detected and the word is used as it is. Check bits have no faults, which
favours the code: fault maps know the 8 data bits alone, and this is an upper reference. Three or more wrong bits, which a real
code may take for one, count as detected, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap, Registers
from epsilon.network import QuantizedNetwork

__all__ = ["CHECK_BITS", "uncorrectable_words", "uncorrected"]

#: Bits beside the eight of a weight.
CHECK_BITS = 5


def uncorrected(faults: FaultMap, network: QuantizedNetwork, config: ArrayConfig) -> FaultMap:
    """Return what is left of a fault map under the code while the golden words are in memory, as faults of the site ``storage``.

    An accelerator with these faults computes what one with ``faults`` and decoders would. A PE that stays idle holds the word 0,
    which counts as corrected.
    """
    storage = {}
    for layer, stuck, beyond in _beyond_the_code(faults, network, config):
        kept = np.where(beyond, np.uint8(0xFF), np.uint8(0))
        left = Registers.from_masks(stuck.sa0 & kept, stuck.sa1 & kept)
        if len(left):
            storage[layer] = left
    return FaultMap(storage)


def uncorrectable_words(faults: FaultMap, network: QuantizedNetwork, config: ArrayConfig) -> int:
    """Return how many golden words of a network the code detects as wrong under a fault map, and cannot correct.

    Each word of the weight memory counts once, however often it is used. Bits count that the multiplier ignores: the code knows
    nothing of it.
    """
    return sum(int(np.count_nonzero(beyond)) for _, _, beyond in _beyond_the_code(faults, network, config))


def _beyond_the_code(
    faults: FaultMap, network: QuantizedNetwork, config: ArrayConfig
) -> Iterator[tuple[str, StuckBits, np.ndarray]]:
    """Yield each layer with stuck bits, those bits, and which of its words have more wrong bits than one, bool (N, K)."""
    for layer in network.weighted:
        stuck = faults.stuck_bits(layer, config)
        if stuck is not None:
            wrong = seen_by_multiplier(WeightWords.plain(layer.matrix), stuck) ^ layer.matrix
            yield layer.name, stuck, np.bitwise_count(wrong.view(np.uint8)) > 1
