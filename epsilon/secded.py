"""Weight registers under a code that corrects one wrong bit and detects two: the costly protection to compare with.

Ref: M. Y. Hsiao, "A Class of Optimal Minimum Odd-weight-column SEC-DED Codes", IBM J. Res. Dev. 14(4), 1970, pp. 395-401.

Each 8-bit weight is stored with 5 check bits, a (13,8) code word. Of the data bits one that differs from the word written is
corrected wherever the word is used; two or more are detected and the word is used as it is. Check bits have no faults, which
favours the code: fault maps know the 8 data bits alone, and this is an upper reference. Three or more wrong bits, which a real
code may take for one, count as detected, too.
"""

from __future__ import annotations

import numpy as np

from epsilon.accelerator import WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap, Registers
from epsilon.network import QuantizedNetwork

__all__ = ["CHECK_BITS", "uncorrected"]

#: Bits beside the eight of a weight.
CHECK_BITS = 5


def uncorrected(faults: FaultMap, network: QuantizedNetwork, config: ArrayConfig) -> FaultMap:
    """Return what is left of a fault map under the code while the golden words are in memory, as faults of the site ``storage``.

    An accelerator with these faults computes what one with ``faults`` and decoders would. A PE that stays idle holds the word 0,
    which counts as corrected.
    """
    storage = {}
    for layer in network.weighted:
        stuck = faults.stuck_bits(layer, config)
        if stuck is None:
            continue
        wrong = seen_by_multiplier(WeightWords.plain(layer.matrix), stuck) ^ layer.matrix
        kept = np.where(np.bitwise_count(wrong.view(np.uint8)) > 1, np.uint8(0xFF), np.uint8(0))
        left = Registers.from_masks(stuck.sa0 & kept, stuck.sa1 & kept)
        if len(left):
            storage[layer.name] = left
    return FaultMap(storage)
