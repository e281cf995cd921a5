"""What the best repair that needs no hardware must hold on a real network, with half of all registers stuck."""

import numpy as np
import pytest

from epsilon import data, network_io
from epsilon.config import ArrayConfig
from epsilon.controller import Controller, repair_all, vanilla
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.faults import FaultMap
from epsilon.repair import get_repair, golden_weights

IMAGES = 1000
CONFIG = ArrayConfig(rows=8, cols=8, multiplier="KVP")


@pytest.fixture(scope="module")
def mnist(data_folder):
    network = network_io.load("mnist")
    test = data.load("mnist", "test", data_folder)
    accelerator = Emulator(CONFIG)
    accelerator.load(network)
    return accelerator, encode(network, test.images[:IMAGES]), test.labels[:IMAGES]


def points(accelerator, codes, labels):
    """Return the accuracy of the last exit and that of all exits, in percent."""
    gamma = accelerator.network.metadata["gamma"][CONFIG.multiplier.key]
    every = Controller(accelerator, gamma=gamma, repair=None).stream(codes)
    return 100 * np.array([vanilla(accelerator, codes).accuracy(labels), every.accuracy(labels)])


@pytest.mark.parametrize("polarity", [0, 1, "both"])
@pytest.mark.parametrize("site", ["array", "storage"])
def test_nearest_loses_at_most_two_points_at_half_of_all_registers(mnist, site, polarity):
    accelerator, codes, labels = mnist
    network = accelerator.network
    accelerator.load(network)
    accelerator.set_faults(None)
    healthy = points(accelerator, codes, labels)
    assert (healthy > 98).all()
    for seed in range(1, 5):
        accelerator.load(network)
        accelerator.set_faults(FaultMap.sample(network, CONFIG, site=site, rate=0.5, polarity=polarity, seed=seed))
        faulty = points(accelerator, codes, labels)
        repair_all(accelerator, get_repair("nearest"), golden_weights(network) if site == "array" else None)
        repaired = points(accelerator, codes, labels)
        # The faults do harm, or the repair would have nothing to show.
        assert faulty.min() < 98
        assert (healthy - repaired).max() <= 2.0, f"seed {seed}: {healthy} healthy, {faulty} faulty, {repaired} repaired"
