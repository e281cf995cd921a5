"""Checks that a quantised network holds together, and what follows from its structure: shapes and numbers of operations."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    InvalidNetworkError,
    Layer,
    Linear,
    MaxPool2d,
    Pad2d,
    QuantizedNetwork,
    Relu,
    Requantization,
    WeightedLayer,
)

__all__ = ["macs", "output_shapes", "validate"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MASK = re.compile(r"[0-9a-f]{16}")
INPUT = "input"
#: Every product of an 8x8 signed multiplier fits in 16 bits, whatever stuck bits make of the weight.
PRODUCT_BOUND = 1 << 15
SUM_BOUND = 1 << 31
WIDE_BOUND = 1 << 63
CODE_BOUND = 1 << 7


def validate(network: QuantizedNetwork) -> QuantizedNetwork:
    """Return the network when it can be executed as it stands.

    Checked are names, order and existence of inputs, types and shapes of all tensors, ranges of the requantisation, that exits
    read integer sums and everything else reads codes, that no accumulator can leave 32 bits even with every weight bit stuck, and
    that every layer leads to an exit.

    Raises
    ------
    InvalidNetworkError
        One sentence that names the layer and what is wrong.
    """
    _check_header(network)
    shapes = output_shapes(network)
    by_name = {layer.name: layer for layer in network.layers}
    used = {name for layer in network.layers for name in layer.inputs}
    for layer in network.layers:
        sources = [by_name.get(name) for name in layer.inputs]
        sums = [source.name for source in sources if isinstance(source, WeightedLayer) and source.requantization is None]
        if isinstance(layer, Exit):
            _check_exit(layer, sources[0], network.classes)
        elif sums:
            raise InvalidNetworkError(f"Layer {layer.name!r} reads the integer sums of {sums[0]!r}, which only an exit may do")
        if isinstance(layer, WeightedLayer):
            _check_weighted(layer)
        if isinstance(layer, AvgPool2d):
            _check_average(layer, shapes[layer.name][0])
        if isinstance(layer, Add):
            _check_add(layer)
        if not isinstance(layer, Exit) and layer.name not in used:
            raise InvalidNetworkError(f"Layer {layer.name!r} leads to no exit")
    _check_corrections(network)
    if not network.exits:
        raise InvalidNetworkError(f"Network {network.name!r} has no exit")
    return network


def output_shapes(network: QuantizedNetwork) -> dict[str, tuple[int, ...]]:
    """Return the shape of every layer's result without the batch, and that of ``input``.

    Raises
    ------
    InvalidNetworkError
        Where a layer does not fit what it reads, or reads what does not come before it.
    """
    shapes: dict[str, tuple[int, ...]] = {INPUT: tuple(network.input_shape)}
    for layer in network.layers:
        if not isinstance(layer.name, str) or not NAME.fullmatch(layer.name):
            raise InvalidNetworkError(f"A layer name must consist of letters, digits and _.-, not be {layer.name!r}")
        if layer.name in shapes:
            raise InvalidNetworkError(f"The layer name {layer.name!r} is used twice")
        wanted, number = ("two inputs", 2) if isinstance(layer, Add) else ("one input", 1)
        if len(layer.inputs) != number:
            raise InvalidNetworkError(f"Layer {layer.name!r} must have exactly {wanted}, not {len(layer.inputs)}")
        for name in layer.inputs:
            if name not in shapes:
                raise InvalidNetworkError(f"Layer {layer.name!r} reads {name!r}, which does not come before it")
        if len({shapes[name] for name in layer.inputs}) > 1:
            given = " and ".join(str(shapes[name]) for name in layer.inputs)
            raise InvalidNetworkError(f"The inputs of {layer.name!r} must have the same shape, not {given}")
        shapes[layer.name] = _output_shape(layer, shapes[layer.inputs[0]])
    return shapes


def macs(network: QuantizedNetwork, layer: str | None = None) -> int:
    """Return the multiplications per image of a layer, or of all layers together."""
    shapes = output_shapes(network)
    counted = [weighted for weighted in network.weighted if layer in (None, weighted.name)]
    return sum(weighted.weight.size * math.prod(shapes[weighted.name][1:]) for weighted in counted)


def _check_header(network: QuantizedNetwork) -> None:
    if not isinstance(network.name, str) or not NAME.fullmatch(network.name):
        raise InvalidNetworkError(f"A network name must consist of letters, digits and _.-, not be {network.name!r}")
    shape = network.input_shape
    if len(shape) != 3 or not all(_is_integer(side) and side >= 1 for side in shape):
        raise InvalidNetworkError(f"The input shape must be three positive integers (channels, height, width), not {shape!r}")
    _check_array("The input table", network.input_table, np.int8, (shape[0], 256))
    if not _is_integer(network.classes) or network.classes < 2:
        raise InvalidNetworkError(f"The number of classes must be an integer of at least 2, not {network.classes!r}")
    if not isinstance(network.metadata, dict):
        raise InvalidNetworkError(f"The metadata must be a dictionary, not {type(network.metadata).__name__}")
    try:
        json.dumps(network.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidNetworkError(f"The metadata cannot be written as JSON: {error}") from None


def _output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Linear):
        if layer.weight.ndim != 2:
            raise InvalidNetworkError(f"The weights of {layer.name!r} must have 2 dimensions, not {layer.weight.ndim}")
        if shape != (layer.weight.shape[1],):
            wanted = layer.weight.shape[1]
            raise InvalidNetworkError(f"Layer {layer.name!r} takes {wanted} values, but its input has the shape {shape}")
        return (layer.weight.shape[0],)
    if isinstance(layer, (Add, Relu, Exit)):
        return shape
    if len(shape) != 3:
        raise InvalidNetworkError(f"Layer {layer.name!r} takes (channels, height, width), but its input has the shape {shape}")
    if isinstance(layer, Flatten):
        return (math.prod(shape),)
    if isinstance(layer, Convolution):
        return _convolution_shape(layer, shape)
    if isinstance(layer, (MaxPool2d, AvgPool2d)):
        _check_pairs(layer, ("kernel", "stride"), 1)
        return (shape[0], *_windows(layer.name, shape[1:], layer.kernel, layer.stride))
    if isinstance(layer, Pad2d):
        return _padded_shape(layer, shape)
    raise InvalidNetworkError(f"Layer {layer.name!r} is of an unknown kind, {type(layer).__name__}")


def _convolution_shape(layer: Convolution, shape: tuple[int, ...]) -> tuple[int, ...]:
    if layer.weight.ndim != 4:
        raise InvalidNetworkError(f"The weights of {layer.name!r} must have 4 dimensions, not {layer.weight.ndim}")
    _check_pairs(layer, ("stride",), 1)
    _check_pairs(layer, ("padding",), 0)
    outputs, reduced, *kernel = layer.weight.shape
    if not _is_integer(layer.groups) or layer.groups < 1 or outputs % layer.groups or shape[0] % layer.groups:
        raise InvalidNetworkError(
            f"The groups of {layer.name!r} must divide its {shape[0]} input and {outputs} output channels, but are {layer.groups!r}"
        )
    if reduced != shape[0] // layer.groups:
        raise InvalidNetworkError(f"Layer {layer.name!r} takes {reduced * layer.groups} channels, but its input has {shape[0]}")
    if any(pad >= side for pad, side in zip(layer.padding, kernel, strict=True)):
        raise InvalidNetworkError(f"The padding {layer.padding} of {layer.name!r} must be smaller than its kernel {tuple(kernel)}")
    padded = [side + 2 * pad for side, pad in zip(shape[1:], layer.padding, strict=True)]
    return (outputs, *_windows(layer.name, padded, kernel, layer.stride))


def _padded_shape(layer: Pad2d, shape: tuple[int, ...]) -> tuple[int, ...]:
    padding, value = layer.padding, layer.value
    if not isinstance(padding, tuple) or len(padding) != 4 or not all(_is_integer(pad) and pad >= 0 for pad in padding):
        raise InvalidNetworkError(f"The padding of {layer.name!r} must be four integers of at least 0, not {padding!r}")
    if not _is_integer(value) or not -CODE_BOUND <= value < CODE_BOUND:
        raise InvalidNetworkError(f"The padding value of {layer.name!r} must be an integer in -128..127, not {value!r}")
    top, bottom, left, right = padding
    return (shape[0], shape[1] + top + bottom, shape[2] + left + right)


def _windows(name: str, sides: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    if any(window > side for window, side in zip(kernel, sides, strict=True)):
        raise InvalidNetworkError(f"The window {tuple(kernel)} of {name!r} is larger than its input {tuple(sides)}")
    return tuple((side - window) // step + 1 for side, window, step in zip(sides, kernel, stride, strict=True))


def _check_weighted(layer: WeightedLayer) -> None:
    name, outputs = layer.name, layer.weight.shape[0]
    _check_array(f"The weight tensor of {name!r}", layer.weight, np.int8, layer.weight.shape)
    if not layer.weight.size:
        raise InvalidNetworkError(f"Layer {name!r} has no weights")
    _check_array(f"The bias of {name!r}", layer.bias, np.int32, (outputs,))
    if layer.requantization is not None:
        _check_requantization(name, layer.requantization, outputs)
    elif not isinstance(layer, Linear):
        raise InvalidNetworkError(f"Layer {name!r} has no requantisation, which only a linear layer before an exit may lack")
    bound = layer.matrix.shape[1] * PRODUCT_BOUND + int(np.abs(layer.bias.astype(np.int64)).max())
    if bound >= SUM_BOUND:
        raise InvalidNetworkError(f"The sums of {name!r} could reach {bound}, more than 32 bits hold")


def _check_corrections(network: QuantizedNetwork) -> None:
    weighted = {layer.name: layer for layer in network.weighted}
    for mask, corrections in network.corrections.items():
        if not isinstance(mask, str) or not MASK.fullmatch(mask):
            raise InvalidNetworkError(f"Corrections belong to the 16 hexadecimal digits of a multiplier's mask, not to {mask!r}")
        for name, correction in corrections.items():
            if name not in weighted:
                raise InvalidNetworkError(f"The corrections for {mask} name {name!r}, which is no layer with weights")
            layer = weighted[name]
            _check_array(f"The correction of {name!r} for {mask}", correction, np.int32, layer.bias.shape)
            corrected = layer.bias.astype(np.int64) + correction
            if int(np.abs(corrected).max()) + layer.matrix.shape[1] * PRODUCT_BOUND >= SUM_BOUND:
                raise InvalidNetworkError(f"The sums of {name!r} could leave 32 bits with the correction for {mask}")


def _check_requantization(name: str, requantization: Requantization, channels: int) -> None:
    if not isinstance(requantization, Requantization):
        raise InvalidNetworkError(f"Layer {name!r} needs a requantisation, not {type(requantization).__name__}")
    for what in ("multiplier", "shift"):
        values = getattr(requantization, what)
        shape = (1,) if getattr(values, "shape", None) == (1,) else (channels,)
        _check_array(f"The requantisation {what} of {name!r}", values, np.int32 if what == "multiplier" else np.int8, shape)
    if (requantization.multiplier < 0).any():
        raise InvalidNetworkError(f"The requantisation multipliers of {name!r} must not be negative")
    if (requantization.shift < 1).any() or (requantization.shift > 62).any():
        raise InvalidNetworkError(f"The requantisation shifts of {name!r} must lie in 1..62")
    if not _is_integer(requantization.zero) or not -CODE_BOUND <= requantization.zero < CODE_BOUND:
        raise InvalidNetworkError(f"The zero of {name!r} must be an integer in -128..127, not {requantization.zero!r}")
    _check_clamp(name, requantization.low, requantization.high)


def _check_average(layer: AvgPool2d, channels: int) -> None:
    _check_requantization(layer.name, layer.requantization, channels)
    if not _is_integer(layer.bias):
        raise InvalidNetworkError(f"The bias of {layer.name!r} must be an integer, not {layer.bias!r}")
    bound = math.prod(layer.kernel) * CODE_BOUND + abs(layer.bias)
    if bound >= SUM_BOUND:
        raise InvalidNetworkError(f"The sums of {layer.name!r} could reach {bound}, more than 32 bits hold")


def _check_add(layer: Add) -> None:
    _check_array(f"The multiplier of {layer.name!r}", layer.multiplier, np.int32, (2,))
    if (layer.multiplier < 0).any():
        raise InvalidNetworkError(f"The multipliers of {layer.name!r} must not be negative")
    if not _is_integer(layer.shift) or not 1 <= layer.shift <= 62:
        raise InvalidNetworkError(f"The shift of {layer.name!r} must be an integer in 1..62, not {layer.shift!r}")
    if not _is_integer(layer.bias):
        raise InvalidNetworkError(f"The bias of {layer.name!r} must be an integer, not {layer.bias!r}")
    _check_clamp(layer.name, layer.low, layer.high)
    bound = CODE_BOUND * sum(layer.multiplier.tolist()) + abs(layer.bias) + (1 << (layer.shift - 1))
    if bound >= WIDE_BOUND:
        raise InvalidNetworkError(f"The sums of {layer.name!r} could reach {bound}, more than 64 bits hold")


def _check_clamp(name: str, low: object, high: object) -> None:
    if not (_is_integer(low) and _is_integer(high) and -128 <= low < high <= 127):
        raise InvalidNetworkError(f"The requantisation of {name!r} must clamp to a range inside -128..127, not {low!r}..{high!r}")


def _check_exit(layer: Exit, source: Layer | None, classes: int) -> None:
    if not isinstance(source, Linear) or source.requantization is not None:
        raise InvalidNetworkError(f"Exit {layer.name!r} must read a linear layer without requantisation, not {layer.inputs[0]!r}")
    if source.weight.shape[0] != classes:
        raise InvalidNetworkError(f"Exit {layer.name!r} must have {classes} classes, not {source.weight.shape[0]}")
    _check_array(f"The scale of exit {layer.name!r}", layer.scale, np.float64, (classes,))
    if not np.isfinite(layer.scale).all() or (layer.scale <= 0).any():
        raise InvalidNetworkError(f"The scale of exit {layer.name!r} must be positive and finite")


def _check_array(what: str, array: object, dtype: type, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != tuple(shape):
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidNetworkError(f"{what} must be {np.dtype(dtype)} {tuple(shape)}, not {given}")


def _check_pairs(layer: Layer, attributes: tuple[str, ...], low: int) -> None:
    for attribute in attributes:
        pair = getattr(layer, attribute)
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(_is_integer(value) and value >= low for value in pair):
            raise InvalidNetworkError(f"The {attribute} of {layer.name!r} must be two integers of at least {low}, not {pair!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
