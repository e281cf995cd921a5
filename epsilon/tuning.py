"""Approximation-aware fine-tuning: trains the integers of a quantised network under approximate multipliers.

The forward pass is the integer network itself, approximate products included, in float32, which is exact below 2**24; the backward
pass takes every product as exact and every rounding as the identity (straight-through estimator, Bengio et al. 2013). A batch runs
under one multiplier, and batches take turns, so that one set of weights serves all of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from epsilon import integer
from epsilon.multipliers import Multiplier
from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    Layer,
    MaxPool2d,
    Pad2d,
    QuantizedNetwork,
    Relu,
    Requantization,
    WeightedLayer,
)
from epsilon.validation import validate

__all__ = ["TrainableNetwork"]

INPUT = "input"
LOWEST, HIGHEST = -128, 127
#: Largest bias that training may reach; far from what would let a sum leave 32 bits.
BIAS_LIMIT = 1 << 29
#: A change of 1 in a trained bias of an exit moves its logit by this much.
LOGIT_STEP = 0.01


class TrainableNetwork(nn.Module):
    """A quantised network whose weight codes and biases are parameters.

    Weights are trained in units of one code; a bias as a difference in units of one output code (of ``LOGIT_STEP`` before an exit).
    Scales, requantisation and structure stay.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.ParameterDict()
        self.shifts = nn.ParameterDict()
        self._units: dict[str, torch.Tensor] = {}
        for layer in network.weighted:
            self.weights[layer.name] = nn.Parameter(torch.from_numpy(layer.weight.astype(np.float32)))
            self.shifts[layer.name] = nn.Parameter(torch.zeros(len(layer.bias)))
            self._units[layer.name] = self._bias_unit(layer)

    def forward(self, codes: torch.Tensor, multiplier: Multiplier) -> list[torch.Tensor]:
        """Return the logits of all exits, float32 (batch, classes) each.

        Parameters
        ----------
        codes : float32 (batch, C, H, W)
            Integer-valued input codes.
        multiplier : Multiplier
            Of every product in this pass.
        """
        values = {INPUT: codes}
        for layer in self.network.layers:
            values[layer.name] = self._run(layer, [values[name] for name in layer.inputs], multiplier)
        return [values[exit_layer.name] for exit_layer in self.network.exits]

    def freeze(self) -> QuantizedNetwork:
        """Return the network with the weights and biases as they are trained, rounded to integers."""
        layers: list[Layer] = []
        for layer in self.network.layers:
            if isinstance(layer, WeightedLayer):
                weight = self.weights[layer.name].detach().round().clamp(LOWEST, HIGHEST).to(torch.int8).numpy()
                layer = replace(layer, weight=weight, bias=self._bias(layer).detach().to(torch.int32).numpy())
            layers.append(layer)
        return validate(replace(self.network, layers=tuple(layers)))

    def _bias_unit(self, layer: WeightedLayer) -> torch.Tensor:
        if layer.requantization is not None:
            return 1 / _ratio(layer.requantization)
        scale = next(reader.scale for reader in self.network.exits if layer.name in reader.inputs)
        return torch.from_numpy(LOGIT_STEP / scale)

    def _bias(self, layer: WeightedLayer) -> torch.Tensor:
        """Return the trained bias in integer-valued float64; the gradient passes the rounding."""
        bias = torch.from_numpy(layer.bias.astype(np.float64)) + self.shifts[layer.name].double() * self._units[layer.name]
        return _straight_through(bias, bias.round()).clamp(-BIAS_LIMIT, BIAS_LIMIT)

    def _run(self, layer: Layer, inputs: list[torch.Tensor], multiplier: Multiplier) -> torch.Tensor:
        if isinstance(layer, Add):
            return _added(*inputs, layer)
        (value,) = inputs
        if isinstance(layer, WeightedLayer):
            weight = self.weights[layer.name].clamp(LOWEST, HIGHEST)
            sums = _Product.apply(value, _straight_through(weight, weight.round()), layer, multiplier)
            sums = sums + self._bias(layer).float().reshape(1, -1, *(1,) * (sums.dim() - 2))
            return sums if layer.requantization is None else _requantized(sums, layer.requantization)
        if isinstance(layer, MaxPool2d):
            return functional.max_pool2d(value, layer.kernel, layer.stride)
        if isinstance(layer, AvgPool2d):
            sums = functional.avg_pool2d(value, layer.kernel, layer.stride, divisor_override=1)
            return _requantized(sums + layer.bias, layer.requantization)
        if isinstance(layer, Pad2d):
            return integer.pad2d(value, layer.padding, layer.value)
        if isinstance(layer, Relu):
            return value.relu()
        if isinstance(layer, Flatten):
            return value.flatten(1)
        assert isinstance(layer, Exit)
        return value * torch.from_numpy(layer.scale.astype(np.float32))


class _Product(torch.autograd.Function):
    """The sums of a layer under an approximate multiplier, with the gradient of the exact ones."""

    @staticmethod
    def forward(ctx, codes: torch.Tensor, weight: torch.Tensor, layer: WeightedLayer, multiplier: Multiplier) -> torch.Tensor:
        ctx.save_for_backward(codes, weight)
        ctx.layer = layer
        sums = [
            term.sign * _linear_map(layer, _mapped(codes, term.a_mask, term.a_map), _mapped(weight, term.b_mask, term.b_map))
            for term in multiplier.terms
        ]
        return torch.stack(sums).sum(0)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        codes, weight = ctx.saved_tensors
        with torch.enable_grad():
            codes = codes.detach().requires_grad_(ctx.needs_input_grad[0])
            weight = weight.detach().requires_grad_()
            sums = _linear_map(ctx.layer, codes, weight)
        wanted = [codes, weight] if ctx.needs_input_grad[0] else [weight]
        found = torch.autograd.grad(sums, wanted, gradient)
        return (None, *found, None, None) if len(found) == 1 else (*found, None, None)


def _linear_map(layer: WeightedLayer, codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, Convolution):
        return functional.conv2d(codes, weight, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    return functional.linear(codes, weight)


def _mapped(codes: torch.Tensor, mask: int | None, mapping: tuple[int, ...]) -> torch.Tensor:
    """Return integer-valued float codes through an operand map of a multiplier."""
    if mask == 0xFF:
        return codes
    if mask is None:
        return torch.tensor(mapping, dtype=torch.float32)[codes.to(torch.int64) + 128]
    signed = mask - 256 if mask > 127 else mask
    return (codes.to(torch.int8) & signed).to(torch.float32)


def _ratio(requantization: Requantization) -> torch.Tensor:
    return torch.from_numpy(requantization.multiplier * np.exp2(-requantization.shift.astype(np.float64)))


def _requantized(sums: torch.Tensor, requantization: Requantization) -> torch.Tensor:
    scaled = sums * _ratio(requantization).float().reshape(1, -1, *(1,) * (sums.dim() - 2)) + requantization.zero
    # Rounded by the integers themselves, since float32 may round a tie the other way, and averages meet ties often.
    exact = integer.requantize(sums.detach().to(torch.int32), requantization)
    return _straight_through(scaled.clamp(requantization.low, requantization.high), exact.to(sums.dtype))


def _added(first: torch.Tensor, second: torch.Tensor, layer: Add) -> torch.Tensor:
    unit = 2.0**-layer.shift
    ratios = [float(multiplier) * unit for multiplier in layer.multiplier]
    smooth = (first * ratios[0] + second * ratios[1] + layer.bias * unit).clamp(layer.low, layer.high)
    exact = integer.add(first.detach().to(torch.int8), second.detach().to(torch.int8), layer)
    return _straight_through(smooth, exact.to(smooth.dtype))


def _straight_through(smooth: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return ``rounded`` with the gradient of ``smooth``."""
    return smooth + (rounded - smooth).detach()
