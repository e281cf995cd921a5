"""The integer-only multi-exit network: the one thing that the emulator, every simulator and the board execute.

Activations are int8, weights int8, biases int32, accumulators int32. Results of the array go through a requantisation in 64-bit
integers (round half up): ``clamp(((acc + bias) * multiplier + 2**(shift - 1) >> shift) + zero, low, high)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from epsilon.multipliers import Multiplier

__all__ = [
    "Add",
    "AvgPool2d",
    "Convolution",
    "Exit",
    "Flatten",
    "InvalidNetworkError",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Pad2d",
    "QuantizedNetwork",
    "Relu",
    "Requantization",
    "WeightedLayer",
]


class InvalidNetworkError(ValueError):
    """A network, or a network file, that does not hold together."""


@dataclass(frozen=True, eq=False)
class Requantization:
    """Fixed-point scaling of int32 results to int8 codes.

    Parameters
    ----------
    multiplier : int32 (N,) or (1,)
        Per output channel, 0 <= multiplier < 2**31.
    shift : int8 (N,) or (1,)
        Right shift, 1..62.
    low, high : int
        Clamp of the result inside [-128, 127]; ``low=0`` is a fused ReLU.
    zero : int
        The code of 0, in [-128, 127].
    """

    multiplier: np.ndarray
    shift: np.ndarray
    low: int = -128
    high: int = 127
    zero: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One node of the network; ``inputs`` name the layers (or ``input``) whose results it takes."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedLayer(Layer):
    """A layer whose products run on the array.

    Parameters
    ----------
    weight : int8 (N, K/groups...)
        Output channels first; see the subclasses.
    bias : int32 (N,)
    requantization : Requantization or None
        None leaves the int32 sums (accumulator plus bias), for an ``Exit``.
    """

    weight: np.ndarray
    bias: np.ndarray
    requantization: Requantization | None = None

    @property
    def matrix(self) -> np.ndarray:
        """The weights as int8 (N, K): output channel by reduction index (channel-major, then kernel row, kernel column)."""
        return self.weight.reshape(self.weight.shape[0], -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(WeightedLayer):
    """2-D convolution, zero padded. ``weight``: int8 (N, C/groups, kh, kw)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(WeightedLayer):
    """Fully connected layer. ``weight``: int8 (N, K); its input is (batch, K)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(Layer):
    """Maximum over windows; windows beyond the edge are dropped."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(Layer):
    """Sum over windows plus ``bias`` (int32, for a zero point), then requantisation (whose scale holds the division)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    requantization: Requantization
    bias: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Layer):
    """Residual addition of two inputs of equal shape, done by the host.

    ``clamp(a * multiplier[0] + b * multiplier[1] + bias + 2**(shift - 1) >> shift, low, high)`` in 64-bit integers (round half up).

    Parameters
    ----------
    multiplier : int32 (2,)
        Of either input, 0 <= multiplier < 2**31.
    shift : int
        Right shift, 1..62.
    bias : int
        64-bit, for zero points, in units of ``2**-shift`` of an output code.
    low, high : int
        Clamp of the result inside [-128, 127]; ``low=0`` is a fused ReLU.
    """

    multiplier: np.ndarray
    shift: int
    bias: int = 0
    low: int = -128
    high: int = 127


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad2d(Layer):
    """Padding of all channels with the code ``value``, done by the host: ``padding`` is (top, bottom, left, right)."""

    padding: tuple[int, int, int, int]
    value: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Layer):
    """max(x, 0) where it could not be fused into a requantisation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Layer):
    """(batch, C, H, W) to (batch, C*H*W)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Exit(Layer):
    """A classifier exit: its input is an int32-output ``Linear``; ``logit = scale * (acc + bias)`` in float64.

    Parameters
    ----------
    scale : float64 (classes,)
        Real value of one unit of the integer sum, per class.
    """

    scale: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedNetwork:
    """An integer-only multi-exit network.

    Parameters
    ----------
    name : str
    input_shape : (C, H, W)
    input_table : int8 (C, 256)
        The code of every 8-bit pixel value, per channel.
    layers : tuple of Layer
        In execution order: a layer's inputs come before it.
    classes : int
    metadata : dict
        Plain JSON: how it was made, thresholds (``gamma`` by multiplier key), accuracies.
    corrections : {str: {str: int32 (N,)}}
        What is added to the biases under a multiplier: by the mask of its function (16 hexadecimal digits), then by layer. The
        weights are the same under all of them; biases are the host's.
    """

    name: str
    input_shape: tuple[int, int, int]
    input_table: np.ndarray
    layers: tuple[Layer, ...]
    classes: int
    metadata: dict = field(default_factory=dict)
    corrections: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def adapted(self, multiplier: Multiplier) -> QuantizedNetwork:
        """Return the network as it runs under a multiplier: the corrections of its function added to the biases, and none left."""
        if not self.corrections:
            return self
        is_mask = multiplier.mask is not None and not multiplier.negative_magnitude
        added = self.corrections.get(multiplier.mask.hex(), {}) if is_mask else {}
        layers = tuple(
            replace(layer, bias=layer.bias + added[layer.name]) if layer.name in added else layer for layer in self.layers
        )
        return replace(self, layers=layers, corrections={})

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def weighted(self) -> tuple[WeightedLayer, ...]:
        """The layers that run on the array, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, WeightedLayer))

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The exits, in order; the last one is the final classifier."""
        return tuple(layer for layer in self.layers if isinstance(layer, Exit))

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)
