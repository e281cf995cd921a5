"""A small network for tests that need one: two exits, four weighted layers, one of them grouped."""

from dataclasses import replace

import numpy as np
import pytest

from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    Linear,
    MaxPool2d,
    Pad2d,
    QuantizedNetwork,
    Requantization,
)
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
def residual_network():
    """A stem, a residual block whose branch is padded on two sides only with a zero point, its sum pooled; two exits."""
    rng = np.random.default_rng(31)

    def convolution(name, source, channels, **fields):
        weight = np.clip(np.rint(rng.normal(0, 40, (6, channels, 3, 3))), -127, 127).astype(np.int8)
        bias = rng.integers(-2000, 2000, 6).astype(np.int32)
        scaling = Requantization(np.array([3 * 2**12], np.int32), np.array([21 if channels == 2 else 22], np.int8), low=-128)
        scaling = replace(scaling, zero=0 if channels == 2 else -3)
        return Convolution(name=name, inputs=(source,), weight=weight, bias=bias, requantization=scaling, **fields)

    def exit_layers(number, source, width):
        weight = rng.integers(-90, 91, (4, width)).astype(np.int8)
        return (
            Flatten(name=f"flat{number}", inputs=(source,)),
            Linear(name=f"fc{number}", inputs=(f"flat{number}",), weight=weight, bias=np.zeros(4, np.int32)),
            Exit(name=f"exit{number}", inputs=(f"fc{number}",), scale=np.full(4, 1e-4)),
        )

    average = Requantization(np.array([2**30 // 3], np.int32), np.array([31], np.int8))
    return validate(
        QuantizedNetwork(
            name="residual",
            input_shape=(2, 6, 6),
            input_table=np.tile((np.arange(256, dtype=np.int16) - 128).astype(np.int8), (2, 1)),
            layers=(
                convolution("stem", "input", 2, padding=(1, 1)),
                *exit_layers(1, "stem", 216),
                Pad2d(name="pad", inputs=("stem",), padding=(0, 2, 2, 0), value=-7),
                convolution("branch", "pad", 6),
                Add(
                    name="sum",
                    inputs=("branch", "stem"),
                    multiplier=np.array([1_500_000_000, 1_000_000_000], np.int32),
                    shift=31,
                    bias=-(5 << 31),
                    low=-100,
                ),
                AvgPool2d(name="pool", inputs=("sum",), kernel=(3, 2), stride=(3, 2), requantization=average, bias=35),
                *exit_layers(2, "pool", 36),
            ),
            classes=4,
        )
    )


@pytest.fixture(scope="session")
def residual_images():
    return np.random.default_rng(32).integers(0, 256, (40, 2, 6, 6)).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_images():
    return np.random.default_rng(21).integers(0, 256, (90, 1, 6, 6)).astype(np.uint8)
