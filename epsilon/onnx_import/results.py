"""Real-valued results of ONNX operators, and the integer layers that they become once it is known how they are rounded.

A signal is ``scale * (code - zero)``. So a product of weights and signal is ``unit * sum(weight * code - weight * zero)``: the zero
point of the input is a constant that joins the bias. That of the output is added to the rounded result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from epsilon.network import Add, AvgPool2d, Convolution, Layer, Linear, Relu, Requantization
from epsilon.onnx_import.reading import OnnxImportError, Scale
from epsilon.quantize import BIAS_LIMIT, requantization_of

__all__ = ["Addition", "Average", "Products", "Result", "Signal", "rescaled"]

LOWEST, HIGHEST = -128, 127
#: Bits after the point of an addition: 2**40 times a code and its zero point stay far from 64 bits.
MOST_SHIFT = 40


@dataclass(frozen=True)
class Signal:
    """The int8 codes that a layer gives, and what they mean."""

    layer: str
    scale: Scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """A real-valued result that nothing has rounded yet, clamped to ``low..high`` (real)."""

    low: float = -math.inf
    high: float = math.inf
    #: Whether it is flattened once it is rounded.
    flat: bool = False

    @property
    def is_clamped(self) -> bool:
        """Whether a ReLU or Clip is behind it."""
        return not (math.isinf(self.low) and math.isinf(self.high))

    def layer(self, name: str, scale: Scale) -> Layer:
        """Return the layer that computes and rounds it."""
        raise NotImplementedError

    def clamped(self, low: float, high: float) -> Result:
        """Return it with a ReLU or Clip behind it."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def codes(self, scale: Scale) -> tuple[int, int]:
        """Return the lowest and the highest code of its range."""
        found = []
        for real, end in ((self.low, LOWEST), (self.high, HIGHEST)):
            code = end if math.isinf(real) else round(real / scale.scale) + scale.zero
            found.append(min(HIGHEST, max(LOWEST, code)))
        return found[0], found[1]

    def requantization(self, ratio: np.ndarray | float, scale: Scale) -> Requantization:
        """Return how sums, of which one unit is ``ratio`` codes, are rounded."""
        return replace(requantization_of(ratio, *self.codes(scale)), zero=scale.zero)


@dataclass(frozen=True, eq=False, kw_only=True)
class Products(Result):
    """Sums of products, of a convolution or linear layer.

    Parameters
    ----------
    source : Signal
    weight : int64 (N, K) or (N, C/groups, kh, kw)
        int8 codes.
    unit : float64 (N,)
        Real value of one unit of the sum.
    bias : float64 (N,)
        In units of the sum, without the zero points.
    options : dict
        Stride, padding and groups of a convolution; empty for a linear layer.
    """

    source: Signal
    weight: np.ndarray
    unit: np.ndarray
    bias: np.ndarray
    options: dict = field(default_factory=dict)

    @property
    def is_linear(self) -> bool:
        """Whether it is a fully connected layer."""
        return self.weight.ndim == 2

    def affine(self, gain: np.ndarray, offset: np.ndarray) -> Products:
        """Return it multiplied by ``gain`` and shifted by ``offset`` (real) per channel; the sign of the gain joins the weights."""
        sign, size = np.sign(gain), np.where(gain == 0, 1.0, np.abs(gain))
        weight = self.weight * sign.astype(np.int64).reshape(-1, *[1] * (self.weight.ndim - 1))
        unit = self.unit * size
        return replace(self, weight=weight.clip(LOWEST, HIGHEST), unit=unit, bias=self.bias * sign + offset / unit)

    def layer(self, name: str, scale: Scale) -> Layer:
        weight, bias, unit = self._sums()
        kind = Linear if self.is_linear else Convolution
        requantization = self.requantization(unit / scale.scale, scale)
        inputs = (self.source.layer,)
        return kind(name=name, inputs=inputs, weight=weight, bias=bias, requantization=requantization, **self.options)

    def exit_layer(self, name: str) -> tuple[Linear, np.ndarray]:
        """Return the layer that gives the integer sums to an exit, and the real value of their unit, float64 (N,)."""
        weight, bias, unit = self._sums()
        return Linear(name=name, inputs=(self.source.layer,), weight=weight, bias=bias), unit.copy()

    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return int8 weights, int32 biases with the zero point of the input, and units.

        A channel whose products are so small that its bias would not fit gets coarser weights.
        """
        weight, unit = self.weight, self.unit
        bias = self._whole_bias(weight, unit)
        coarser = np.maximum(1.0, np.abs(bias) / BIAS_LIMIT)
        if (coarser > 1).any():
            weight = np.rint(weight / coarser.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int64)
            unit = unit * coarser
            bias = self._whole_bias(weight, unit)
        return weight.astype(np.int8, order="C"), np.rint(bias).astype(np.int32), unit

    def _whole_bias(self, weight: np.ndarray, unit: np.ndarray) -> np.ndarray:
        sums = weight.reshape(len(weight), -1).sum(axis=1)
        return self.bias * (self.unit / unit) - self.source.scale.zero * sums


@dataclass(frozen=True, eq=False, kw_only=True)
class Average(Result):
    """The average over windows of a signal."""

    source: Signal
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def layer(self, name: str, scale: Scale) -> Layer:
        area = self.kernel[0] * self.kernel[1]
        ratio = self.source.scale.scale / (scale.scale * area)
        return AvgPool2d(
            name=name,
            inputs=(self.source.layer,),
            kernel=self.kernel,
            stride=self.stride,
            requantization=self.requantization(ratio, scale),
            bias=-self.source.scale.zero * area,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Addition(Result):
    """The sum of two signals; without the second one, the first alone, to be rounded by another scale."""

    first: Signal
    second: Signal | None = None

    def layer(self, name: str, scale: Scale) -> Layer:
        second = self.second or self.first
        ratios = [self.first.scale.scale / scale.scale, second.scale.scale / scale.scale if self.second else 0.0]
        shift = min(MOST_SHIFT, 31 - math.frexp(max(ratios))[1])
        if shift < 1:
            raise OnnxImportError(f"The addition {name!r} makes its input {max(ratios):.3g} times as large, more than 2**30")
        multipliers = [min(round(math.ldexp(ratio, shift)), (1 << 31) - 1) for ratio in ratios]
        zeros = self.first.scale.zero, second.scale.zero
        low, high = self.codes(scale)
        return Add(
            name=name,
            inputs=(self.first.layer, second.layer),
            multiplier=np.array(multipliers, np.int32),
            shift=shift,
            bias=(scale.zero << shift) - sum(zero * multiplier for zero, multiplier in zip(zeros, multipliers, strict=True)),
            low=low,
            high=high,
        )


def rescaled(name: str, result: Addition, scale: Scale) -> Layer | None:
    """Return the layer that rounds a lone signal by another scale or clamps it; None where that changes nothing."""
    low, high = result.codes(scale)
    if scale == result.first.scale and high == HIGHEST:
        if low == LOWEST:
            return None
        if low == 0:
            return Relu(name=name, inputs=(result.first.layer,))
    return result.layer(name, scale)
