"""Post-training quantisation of a multi-exit network to integers.

BatchNorm is folded into the weights before it. Weights get one scale per output channel, ``max|w| / 127``, activations one scale
per layer, found on calibration images: the one that minimises the mean squared error among clippings of the largest value.
A code is ``round(real / scale)``; zero is always code 0, so zero padding stays exact. Pixels have the codes ``round(127 real)`` of
the values that the network takes for them (``MultiExit.real``): ``round(127 p / 255)``, or ``p - 128`` where 128 stands for zero.

Approximate multipliers cut low bits off their operands. A ``step`` of 8 prepares for three of them: weights become multiples of 8,
which all multipliers of the catalogue but L12 see whole, and the ranges of activations are chosen for codes that are cut, too, so
they use more of the upper bits and clip more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from epsilon.models import MultiExit
from epsilon.models.blocks import Residual
from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Pad2d,
    QuantizedNetwork,
    Relu,
    Requantization,
)
from epsilon.validation import validate

__all__ = ["QuantizationError", "quantize", "requantization_of"]

INPUT = "input"
TOP = 127
#: Fractions of the largest value that are tried as the end of an activation's range.
CLIPPINGS = np.linspace(0.4, 1.0, 25)
#: The same where multipliers cut low bits off, and what the error of the cut codes counts beside that of whole ones.
COARSE_CLIPPINGS = np.linspace(0.05, 1.0, 39)
COARSE_WEIGHT = 0.3
STEPS = (1, 2, 4, 8, 16, 32)
#: A bias may take this much of the 32 bits; the products take the rest.
BIAS_LIMIT = 1 << 29
PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)
WEIGHTED = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class QuantizationError(ValueError):
    """A floating-point network that has no integer form here."""


@dataclass
class _Signal:
    """What flows between layers: the layer it comes from, the real value of one code, and the calibration batch in float."""

    name: str
    scale: float
    value: torch.Tensor


@dataclass
class _Walk:
    step: int
    layers: list[Layer] = field(default_factory=list)

    def add(self, layer: Layer) -> None:
        if any(layer.name == other.name for other in self.layers):
            raise QuantizationError(f"The module name {layer.name!r} is used twice: layer names must differ throughout the network")
        self.layers.append(layer)


def quantize(
    model: MultiExit, calibration: np.ndarray, *, name: str, step: int = 1, metadata: dict | None = None
) -> QuantizedNetwork:
    """Return the integer form of a trained multi-exit network.

    Parameters
    ----------
    model : MultiExit
        Left as it is; its stages and heads consist of Conv2d, Linear, BatchNorm, MaxPool2d, AvgPool2d, ZeroPad2d, ReLU, Flatten,
        Dropout, Identity and ``Residual`` modules, and every head ends with a Linear.
    calibration : uint8 (count, C, H, W)
        Images on which the activations' ranges are measured; never those of the test.
    name : str
        Name of the result.
    step : int
        Weight codes are multiples of it: 1, 2, 4, 8, 16 or 32.

    Raises
    ------
    QuantizationError
        For another step, and for a module, or an option of a module, that has no integer form here; the sentence names it.
    """
    if calibration.dtype != np.uint8 or calibration.shape[1:] != model.input_shape or not len(calibration):
        wanted = f"uint8 (count, {', '.join(map(str, model.input_shape))})"
        raise QuantizationError(f"Calibration images must be {wanted}, not {calibration.dtype} {calibration.shape}")
    real = model.real(torch.arange(256, dtype=torch.float64) / 255)
    table = np.tile((real * TOP).round().clamp(-TOP - 1, TOP).to(torch.int8).numpy(), (model.input_shape[0], 1))
    if step not in STEPS:
        raise QuantizationError(f"The step of the weights must be one of {', '.join(map(str, STEPS))}, not {step!r}")
    walk = _Walk(step)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            signal = _Signal(INPUT, 1 / TOP, model.real(torch.from_numpy(calibration).to(torch.float32) / 255))
            for number, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True), start=1):
                signal = _walk_sequence(walk, stage, signal)
                _walk_head(walk, head, signal, f"exit{number}")
    finally:
        model.train(training)
    network = QuantizedNetwork(
        name=name,
        input_shape=model.input_shape,
        input_table=table,
        layers=tuple(walk.layers),
        classes=model.classes,
        metadata=metadata or {},
    )
    return validate(network)


def requantization_of(ratio: np.ndarray | float, low: int, high: int = TOP) -> Requantization:
    """Return the fixed-point form of a multiplication by ``ratio``, with 31 significant bits where the shift allows.

    Parameters
    ----------
    ratio : float (N,) or float
        In (0, 2**29).
    """
    ratios = np.atleast_1d(np.asarray(ratio, dtype=np.float64))
    multipliers, shifts = [], []
    for value in ratios:
        if not 0 < value < 2**29:
            raise QuantizationError(f"A requantisation ratio must lie between 0 and 2**29, not {value}")
        shift = min(62, 31 - math.frexp(value)[1])
        multiplier = round(math.ldexp(value, shift))
        if multiplier == 1 << 31:
            multiplier, shift = multiplier >> 1, shift - 1
        multipliers.append(multiplier)
        shifts.append(shift)
    return Requantization(np.array(multipliers, np.int32), np.array(shifts, np.int8), low, high)


def _walk_sequence(walk: _Walk, sequence: nn.Sequential, signal: _Signal) -> _Signal:
    for names, group in _fused(sequence):
        emit = _emit_residual if isinstance(group[0], Residual) else _emit
        signal = emit(walk, names[0], group, signal)
    return signal


def _walk_head(walk: _Walk, head: nn.Sequential, signal: _Signal, exit_name: str) -> None:
    groups = list(_fused(head))
    if not groups or not isinstance(groups[-1][1][0], nn.Linear) or _has_relu(groups[-1][1]):
        raise QuantizationError(f"The head of {exit_name} must end with a linear layer")
    for names, group in groups[:-1]:
        signal = _emit(walk, names[0], group, signal)
    names, group = groups[-1]
    weight, bias = _folded(group)
    codes, scale = _weight_codes(weight, bias, signal.scale, walk.step)
    walk.add(Linear(name=names[0], inputs=(signal.name,), weight=codes, bias=_bias_codes(bias, signal.scale * scale)))
    walk.add(Exit(name=exit_name, inputs=(names[0],), scale=signal.scale * scale))


def _fused(sequence: nn.Sequential) -> Iterator[tuple[list[str], list[nn.Module]]]:
    """Yield the modules in groups: a weighted or residual one with the BatchNorm and ReLU behind it, any other alone."""
    names: list[str] = []
    group: list[nn.Module] = []
    for name, module in sequence.named_children():
        if isinstance(module, PASSIVE):
            continue
        if isinstance(module, NORMS):
            if len(group) != 1 or not isinstance(group[0], WEIGHTED):
                raise QuantizationError(f"The BatchNorm {name!r} must directly follow a convolution or linear layer")
            joins = True
        else:
            fusing = bool(group) and isinstance(group[0], (*WEIGHTED, Residual)) and not _has_relu(group)
            joins = fusing and isinstance(module, nn.ReLU)
        if group and not joins:
            yield names, group
            names, group = [], []
        names.append(name)
        group.append(module)
    if group:
        yield names, group


def _emit(walk: _Walk, name: str, group: list[nn.Module], signal: _Signal) -> _Signal:
    """Add the integer layer of a group and return its result."""
    value = signal.value
    for module in group:
        value = module(value)
    first = group[0]
    inputs = (signal.name,)
    scale = signal.scale
    if isinstance(first, WEIGHTED):
        scale = _activation_scale(value, walk.step)
        weight, bias = _folded(group)
        codes, weight_scale = _weight_codes(weight, bias, signal.scale, walk.step)
        fields = {
            "weight": codes,
            "bias": _bias_codes(bias, signal.scale * weight_scale),
            "requantization": requantization_of(signal.scale * weight_scale / scale, 0 if _has_relu(group) else -128),
        }
        if isinstance(first, nn.Linear):
            walk.add(Linear(name=name, inputs=inputs, **fields))
        else:
            walk.add(Convolution(name=name, inputs=inputs, **fields, **_convolution_options(name, first)))
    elif isinstance(first, nn.MaxPool2d):
        kernel, stride = _pool_options(name, first)
        walk.add(MaxPool2d(name=name, inputs=inputs, kernel=kernel, stride=stride))
    elif isinstance(first, nn.AvgPool2d):
        kernel, stride = _pool_options(name, first)
        scale = _activation_scale(value, walk.step)
        requantization = requantization_of(signal.scale / (scale * kernel[0] * kernel[1]), -128)
        walk.add(AvgPool2d(name=name, inputs=inputs, kernel=kernel, stride=stride, requantization=requantization))
    elif isinstance(first, nn.ZeroPad2d):
        left, right, top, bottom = first.padding
        walk.add(Pad2d(name=name, inputs=inputs, padding=(top, bottom, left, right)))
    elif isinstance(first, nn.ReLU):
        walk.add(Relu(name=name, inputs=inputs))
    elif isinstance(first, nn.Flatten):
        if (first.start_dim, first.end_dim) != (1, -1):
            raise QuantizationError(f"The module {name!r} must flatten everything but the batch")
        walk.add(Flatten(name=name, inputs=inputs))
    else:
        raise QuantizationError(f"The module {name!r} is a {type(first).__name__}, which has no integer form here")
    return _Signal(name, scale, value)


def _emit_residual(walk: _Walk, name: str, group: list[nn.Module], signal: _Signal) -> _Signal:
    """Add the layers of both branches and their integer addition, and return its result."""
    branches = [_walk_sequence(walk, branch, signal) for branch in (group[0].main, group[0].shortcut)]
    value = branches[0].value + branches[1].value
    for module in group[1:]:
        value = module(value)
    scale = _activation_scale(value, walk.step)
    ratios = np.array([branch.scale / scale for branch in branches])
    # The shift at which the larger ratio has all its bits serves both.
    shift = int(requantization_of(ratios.max(), 0).shift[0])
    multiplier = np.minimum(np.rint(np.ldexp(ratios, shift)), 2**31 - 1).astype(np.int32)
    inputs = (branches[0].name, branches[1].name)
    walk.add(Add(name=name, inputs=inputs, multiplier=multiplier, shift=shift, low=0 if _has_relu(group) else -128, high=TOP))
    return _Signal(name, scale, value)


def _has_relu(group: list[nn.Module]) -> bool:
    return isinstance(group[-1], nn.ReLU)


def _folded(group: list[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias in float64 of a weighted layer with the BatchNorm behind it folded in."""
    layer = group[0]
    weight = layer.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double().cpu()
    for norm in group[1:]:
        if isinstance(norm, NORMS):
            gain = torch.rsqrt(norm.running_var.double() + norm.eps)
            offset = torch.zeros_like(gain)
            if norm.affine:
                gain, offset = gain * norm.weight.detach().double(), norm.bias.detach().double()
            bias = (bias - norm.running_mean.double()) * gain + offset
            weight = weight * gain.reshape(-1, *(1,) * (weight.dim() - 1))
    return weight.numpy(), bias.numpy()


def _weight_codes(weight: np.ndarray, bias: np.ndarray, input_scale: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the int8 codes, multiples of the step, and the scale of each output channel (wide enough that its bias fits)."""
    top = TOP - TOP % step
    rows = weight.reshape(len(weight), -1)
    largest = np.maximum(np.abs(rows).max(axis=1) / top, np.abs(bias) / (input_scale * BIAS_LIMIT))
    scale = np.where(largest > 0, largest, 1.0)
    codes = (np.rint(rows / scale[:, None] / step) * step).clip(-top, top).astype(np.int8)
    return codes.reshape(weight.shape), scale


def _bias_codes(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return np.rint(bias / unit).astype(np.int32)


def _activation_scale(value: torch.Tensor, step: int) -> float:
    """Return the real value of one code that keeps the mean squared error of these activations least.

    With a step above 1 the error of the codes cut down to multiples of it counts too.
    """
    largest = float(value.abs().max())
    if largest == 0:
        return 1 / TOP
    flat = value.flatten()[:: max(1, value.numel() // 200_000)]
    scales = (CLIPPINGS if step == 1 else COARSE_CLIPPINGS) * largest / TOP
    errors = []
    for scale in scales:
        codes = (flat / scale).round().clamp(-TOP - 1, TOP)
        error = float((codes * scale - flat).square().mean())
        if step > 1:
            error += COARSE_WEIGHT * float(((codes / step).floor() * step * scale - flat).square().mean())
        errors.append(error)
    return float(scales[int(np.argmin(errors))])


def _convolution_options(name: str, module: nn.Conv2d) -> dict:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise QuantizationError(f"The convolution {name!r} must be padded with zeros by stated numbers")
    if set(module.dilation) != {1}:
        raise QuantizationError(f"The convolution {name!r} must not be dilated")
    return {"stride": tuple(module.stride), "padding": tuple(module.padding), "groups": module.groups}


def _pool_options(name: str, module: nn.MaxPool2d | nn.AvgPool2d) -> tuple[tuple[int, int], tuple[int, int]]:
    padding, dilation = _pair(module.padding), _pair(getattr(module, "dilation", 1))
    if padding != (0, 0) or dilation != (1, 1) or module.ceil_mode or getattr(module, "divisor_override", None):
        raise QuantizationError(f"The pooling {name!r} must have no padding, dilation, ceil mode or divisor of its own")
    return _pair(module.kernel_size), _pair(module.stride)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
