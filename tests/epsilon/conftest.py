"""A small network for tests that need one: two exits, four weighted layers, one of them grouped."""

import numpy as np
import pytest

from epsilon.network import Convolution, Exit, Flatten, Linear, MaxPool2d, QuantizedNetwork, Requantization
from epsilon.validation import validate


@pytest.fixture(scope="session")
def tiny_network():
    rng = np.random.default_rng(20)

    def weights(*shape):
        # A fifth of them zero, so that faults show in the sparsity pattern.
        dense = np.clip(np.rint(rng.normal(0, 28, shape)), -127, 127)
        return np.where(rng.random(shape) < 0.2, 0, dense).astype(np.int8)

    def requantization(shift):
        return Requantization(np.array([2**14], np.int32), np.array([14 + shift], np.int8), low=0)

    def biases(count):
        return rng.integers(-2000, 2000, count).astype(np.int32)

    table = np.arange(256, dtype=np.int16) - 128
    return validate(
        QuantizedNetwork(
            name="tiny",
            input_shape=(1, 6, 6),
            input_table=table.astype(np.int8)[None],
            layers=(
                Convolution(
                    name="conv1",
                    inputs=("input",),
                    weight=weights(8, 1, 3, 3),
                    bias=biases(8),
                    requantization=requantization(7),
                    padding=(1, 1),
                ),
                MaxPool2d(name="pool", inputs=("conv1",), kernel=(2, 2), stride=(2, 2)),
                Flatten(name="flat1", inputs=("pool",)),
                Linear(name="fc1", inputs=("flat1",), weight=weights(4, 72), bias=biases(4)),
                Exit(name="exit1", inputs=("fc1",), scale=np.full(4, 1e-4)),
                Convolution(
                    name="conv2",
                    inputs=("pool",),
                    weight=weights(12, 4, 3, 3),
                    bias=biases(12),
                    requantization=requantization(8),
                    padding=(1, 1),
                    groups=2,
                ),
                Flatten(name="flat2", inputs=("conv2",)),
                Linear(name="fc2", inputs=("flat2",), weight=weights(4, 108), bias=biases(4)),
                Exit(name="exit2", inputs=("fc2",), scale=np.full(4, 1e-4)),
            ),
            classes=4,
        )
    )


@pytest.fixture(scope="session")
def tiny_images():
    return np.random.default_rng(21).integers(0, 256, (90, 1, 6, 6)).astype(np.uint8)
