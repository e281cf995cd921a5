"""Approximation-aware fine-tuning: trains the integers of a quantised network under approximate multipliers.

The forward pass is the integer network itself, approximate products included, in float32, which is exact below 2**24; the backward
pass takes every product as exact and every rounding as the identity (straight-through estimator, Bengio et al. 2013). A batch runs
under one multiplier, and batches take turns, so that one set of weights serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
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
#: A correction of one multiplier has few batches to learn from, so it moves so much further in each.
CORRECTION_GAIN = 10.0


class TrainableNetwork(nn.Module):
    """A quantised network whose weight codes and biases are parameters.

    Weights are trained in units of one code; a bias as a difference in units of one output code (of ``LOGIT_STEP`` before an exit).
    Scales, requantisation and structure stay.

    Parameters
    ----------
    network : QuantizedNetwork
        Without corrections.
    step : int
        Weight codes are rounded to multiples of it.
    corrected_for : sequence of Multiplier
        These get biases of their own beside the common ones.
    """

    def __init__(self, network: QuantizedNetwork, step: int = 1, corrected_for: Sequence[Multiplier] = ()) -> None:
        super().__init__()
        masks = sorted({multiplier.mask.hex() for multiplier in corrected_for})
        self.corrections = nn.ModuleDict({mask: nn.ParameterDict() for mask in masks})
        self._step = step
        self.network = network
        self.weights = nn.ParameterDict()
        self.shifts = nn.ParameterDict()
        self._made: dict[tuple[str, torch.device], dict[str, torch.Tensor]] = {}
        for layer in network.weighted:
            self.weights[layer.name] = nn.Parameter(torch.from_numpy(layer.weight.astype(np.float32)))
            self.shifts[layer.name] = nn.Parameter(torch.zeros(len(layer.bias)))
            for corrections in self.corrections.values():
                corrections[layer.name] = nn.Parameter(torch.zeros(len(layer.bias)))

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
                weight = self._weight(layer).detach().to(torch.int8).cpu().numpy()
                layer = replace(layer, weight=weight, bias=self._frozen_bias(layer, None))
            layers.append(layer)
        corrections = {
            mask: {layer.name: self._frozen_bias(layer, mask) - layer.bias for layer in layers if isinstance(layer, WeightedLayer)}
            for mask in self.corrections
        }
        return validate(replace(self.network, layers=tuple(layers), corrections=corrections))

    def _frozen_bias(self, layer: WeightedLayer, mask: str | None) -> np.ndarray:
        return self._bias(self.network[layer.name], mask).detach().to(torch.int32).cpu().numpy()

    def _constants(self, layer: WeightedLayer | Exit, device: torch.device) -> dict[str, torch.Tensor]:
        """Return what of a layer is not trained, on the device; made once."""
        if (layer.name, device) not in self._made:
            found = {}
            if isinstance(layer, Exit):
                found["scale"] = torch.from_numpy(layer.scale.astype(np.float32))
            else:
                found["bias"] = torch.from_numpy(layer.bias.astype(np.float64))
                if layer.requantization is None:
                    scale = next(reader.scale for reader in self.network.exits if layer.name in reader.inputs)
                    found["unit"] = torch.from_numpy(LOGIT_STEP / scale)
                else:
                    found["unit"] = 1 / _ratio(layer.requantization)
            self._made[layer.name, device] = {name: tensor.to(device) for name, tensor in found.items()}
        return self._made[layer.name, device]

    def _weight(self, layer: WeightedLayer) -> torch.Tensor:
        """Return the trained weight in integer-valued float32; the gradient passes the rounding."""
        weight = self.weights[layer.name].clamp(LOWEST, HIGHEST - HIGHEST % self._step)
        return _straight_through(weight, (weight / self._step).round() * self._step)

    def _bias(self, layer: WeightedLayer, mask: str | None) -> torch.Tensor:
        """Return the trained bias under a multiplier in integer-valued float64; the gradient passes the rounding."""
        shift = self.shifts[layer.name]
        if mask in self.corrections:
            shift = shift + CORRECTION_GAIN * self.corrections[mask][layer.name]
        constants = self._constants(layer, shift.device)
        bias = constants["bias"] + shift.double() * constants["unit"]
        return _straight_through(bias, bias.round()).clamp(-BIAS_LIMIT, BIAS_LIMIT)

    def _run(self, layer: Layer, inputs: list[torch.Tensor], multiplier: Multiplier) -> torch.Tensor:
        if isinstance(layer, Add):
            return _added(*inputs, layer)
        (value,) = inputs
        if isinstance(layer, WeightedLayer):
            bias = self._bias(layer, None if multiplier.mask is None else multiplier.mask.hex())
            sums = _Product.apply(value, self._weight(layer), bias.float(), layer, multiplier)
            return sums if layer.requantization is None else _Requantized.apply(sums, layer.requantization)
        if isinstance(layer, MaxPool2d):
            return functional.max_pool2d(value, layer.kernel, layer.stride)
        if isinstance(layer, AvgPool2d):
            sums = functional.avg_pool2d(value, layer.kernel, layer.stride, divisor_override=1) + layer.bias
            # Averages meet ties often, and float32 may round them the other way.
            exact = integer.requantize(sums.detach().to(torch.int32), layer.requantization)
            return _Requantized.apply(sums, layer.requantization, exact)
        if isinstance(layer, Pad2d):
            return integer.pad2d(value, layer.padding, layer.value)
        if isinstance(layer, Relu):
            return value.relu()
        if isinstance(layer, Flatten):
            return value.flatten(1)
        assert isinstance(layer, Exit)
        return value * self._constants(layer, value.device)["scale"]


class _Product(torch.autograd.Function):
    """The sums of a layer under an approximate multiplier, bias included, with the gradient of the exact ones."""

    @staticmethod
    def forward(
        ctx, codes: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, layer: WeightedLayer, multiplier: Multiplier
    ) -> torch.Tensor:
        ctx.save_for_backward(codes, weight)
        ctx.layer = layer
        sums = None
        for term in multiplier.terms:
            mapped = _mapped(codes, term.a_mask, term.a_map), term.sign * _mapped(weight, term.b_mask, term.b_map)
            part = _linear_map(layer, *mapped, bias if sums is None else None)
            sums = part if sums is None else sums.add_(part)
        if sums is None:
            sums = _linear_map(layer, torch.zeros_like(codes), weight, bias)
        return sums

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        codes, weight = ctx.saved_tensors
        layer, wanted = ctx.layer, ctx.needs_input_grad[:3]
        if isinstance(layer, Convolution):
            options = [len(weight)], layer.stride, layer.padding, (1, 1), False, (0, 0), layer.groups
            found = torch.ops.aten.convolution_backward(gradient, codes, weight, *options, wanted)
        else:
            found = (gradient @ weight if wanted[0] else None, gradient.T @ codes, gradient.sum(0))
        return (*found, None, None)


class _Requantized(torch.autograd.Function):
    """Codes of sums, rounded half up and clamped (or as they are given); the gradient is that of the scaling and the clamp."""

    @staticmethod
    def forward(ctx, sums: torch.Tensor, requantization: Requantization, exact: torch.Tensor | None = None) -> torch.Tensor:
        ratio = _ratio(requantization).float().to(sums.device).reshape(1, -1, *(1,) * (sums.dim() - 2))
        scaled = (sums * ratio).add_(requantization.zero)
        ctx.save_for_backward((scaled >= requantization.low) & (scaled <= requantization.high), ratio)
        if exact is not None:
            return exact.to(sums.dtype)
        return scaled.add_(0.5).floor_().clamp_(requantization.low, requantization.high)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inside, ratio = ctx.saved_tensors
        return gradient * ratio * inside, None, None


def _linear_map(layer: WeightedLayer, codes: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if isinstance(layer, Convolution):
        return functional.conv2d(codes, weight, bias, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    return functional.linear(codes, weight, bias)


def _mapped(codes: torch.Tensor, mask: int | None, mapping: tuple[int, ...]) -> torch.Tensor:
    """Return integer-valued float codes through an operand map of a multiplier."""
    if mask == 0xFF:
        return codes
    if mask is None:
        return torch.tensor(mapping, dtype=torch.float32, device=codes.device)[codes.to(torch.int64) + 128]
    signed = mask - 256 if mask > 127 else mask
    return (codes.to(torch.int8) & signed).to(torch.float32)


def _ratio(requantization: Requantization) -> torch.Tensor:
    return torch.from_numpy(requantization.multiplier * np.exp2(-requantization.shift.astype(np.float64)))


def _added(first: torch.Tensor, second: torch.Tensor, layer: Add) -> torch.Tensor:
    unit = 2.0**-layer.shift
    ratios = [float(multiplier) * unit for multiplier in layer.multiplier]
    smooth = (first * ratios[0] + second * ratios[1] + layer.bias * unit).clamp(layer.low, layer.high)
    exact = integer.add(first.detach().to(torch.int8), second.detach().to(torch.int8), layer)
    return _straight_through(smooth, exact.to(smooth.dtype))


def _straight_through(smooth: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return ``rounded`` with the gradient of ``smooth``."""
    return smooth + (rounded - smooth).detach()
