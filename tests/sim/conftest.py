"""Small arrays that all tests of the simulators share, for each takes a compiler seconds to build."""

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from epsilon.network import Convolution, Exit, Flatten, Linear, QuantizedNetwork, Requantization

ARRAYS = {
    "1x1": ArrayConfig(rows=1, cols=1, accumulator_depth=16),
    "3x5": ArrayConfig(rows=3, cols=5, accumulator_depth=20),
    "2x3-gates": ArrayConfig(rows=2, cols=3, accumulator_depth=7, level="gates"),
    "4x2-plain": ArrayConfig(rows=4, cols=2, accumulator_depth=32, multiplier="L2N", fault_injection=False, repair=False),
}


@pytest.fixture(scope="session")
def arrays():
    """Return the shared configurations by name."""
    return ARRAYS


@pytest.fixture(scope="session")
def layers_network():
    """Return layers of all shapes: padded, strided, grouped, fully connected; what is between them is never run."""
    rng = np.random.default_rng(0)
    requantization = Requantization(np.array([2**20], np.int32), np.array([30], np.int8), 0, 127)

    def weights(low, high, *shape):
        return rng.integers(low, high, shape).astype(np.int8)

    def bias(count):
        return np.zeros(count, np.int32)

    layers = (
        Convolution(
            name="padded",
            inputs=("input",),
            weight=weights(-128, 128, 6, 2, 3, 3),
            bias=bias(6),
            requantization=requantization,
            padding=(1, 1),
        ),
        Convolution(
            name="grouped",
            inputs=("padded",),
            weight=weights(-60, 60, 8, 3, 3, 2),
            bias=bias(8),
            requantization=requantization,
            stride=(2, 1),
            groups=2,
        ),
        Flatten(name="flat", inputs=("grouped",)),
        Linear(name="full", inputs=("flat",), weight=weights(-3, 4, 7, 64), bias=bias(7)),
        Exit(name="exit", inputs=("full",), scale=np.ones(7)),
    )
    return QuantizedNetwork(name="layers", input_shape=(2, 5, 5), input_table=np.zeros((2, 256), np.int8), layers=layers, classes=7)


@pytest.fixture(scope="session")
def layer_shapes():
    """Return the shape of one image of activations by layer of ``layers_network``."""
    return {"padded": (2, 5, 5), "grouped": (6, 5, 5), "full": (64,)}
