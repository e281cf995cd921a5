"""What a code that corrects one bit leaves of a fault map."""

import numpy as np
import pytest

from epsilon.accelerator import WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap
from epsilon.secded import uncorrectable_words, uncorrected

CONFIG = ArrayConfig(rows=4, cols=4, multiplier="KVP")


@pytest.mark.parametrize("site", ["storage", "array"])
def test_every_single_stuck_bit_is_corrected(tiny_network, site):
    faults = FaultMap.sample(tiny_network, CONFIG, site=site, rate=1.0, polarity="both", seed=1)
    assert not len(uncorrected(faults, tiny_network, CONFIG))
    assert uncorrectable_words(faults, tiny_network, CONFIG) == 0


def test_two_wrong_bits_stay_and_a_stuck_bit_that_fits_does_not_count(tiny_network):
    parts = [FaultMap.sample(tiny_network, CONFIG, rate=1.0, seed=seed, layers=["conv2"]) for seed in (1, 2, 3)]
    faults = parts[0] | parts[1] | parts[2]
    layer = tiny_network["conv2"]
    left = uncorrected(faults, tiny_network, CONFIG)
    plain = WeightWords.plain(layer.matrix)
    faulty = seen_by_multiplier(plain, faults.stuck_bits(layer, CONFIG))
    decoded = seen_by_multiplier(plain, left.stuck_bits(layer, CONFIG))
    wrong_bits = np.array([bin((int(a) ^ int(b)) & 0xFF).count("1") for a, b in zip(faulty.flat, layer.matrix.flat, strict=True)])
    wrong_bits = wrong_bits.reshape(faulty.shape)
    assert {0, 1, 2, 3} == set(wrong_bits.flat)
    assert np.array_equal(decoded, np.where(wrong_bits == 1, layer.matrix, faulty))
    assert uncorrectable_words(faults, tiny_network, CONFIG) == np.count_nonzero(wrong_bits > 1)
