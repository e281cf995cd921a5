"""Turns the operators of a quantised ONNX graph into the layers of the integer network, one after another."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from epsilon.network import Exit, Flatten, Layer, MaxPool2d, Pad2d, QuantizedNetwork
from epsilon.onnx_import.reading import Codes, Graph, Node, OnnxImportError, Scale
from epsilon.onnx_import.results import Addition, Average, Products, Result, Signal, rescaled
from epsilon.validation import INPUT, macs, output_shapes

__all__ = ["Builder", "safe_name"]

LOWEST = -128
#: A bias whose scale differs from that of its sums by no more than this is taken over as it is.
SCALE_TOLERANCE = 1e-5


def safe_name(wanted: str, otherwise: str) -> str:
    """Return a name of letters, digits and _.- that resembles the wanted one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", wanted).strip("_.-") or otherwise


class Builder:
    """Walks through the nodes of a graph.

    Parameters
    ----------
    graph : Graph
    input_table : callable
        Returns the int8 (C, 256) codes of the pixels under a scale.

    Raises
    ------
    OnnxImportError
        For the first node that has no integer form here.
    """

    def __init__(self, graph: Graph, input_table: Callable[[Scale], np.ndarray]) -> None:
        self._graph = graph
        self._input_table = input_table
        self._input_scale: Scale | None = None
        self._layers: list[Layer] = []
        self._values: dict[str, Signal | Result] = {}
        self._shapes = {INPUT: graph.input_shape}
        for node in graph.nodes:
            if node.operator not in OPERATORS:
                raise OnnxImportError(f"The operator {node} is not supported")
        for node in graph.nodes:
            self._values[node.outputs[0]] = OPERATORS[node.operator](self, node)

    def network(self, name: str) -> tuple[QuantizedNetwork, list[str]]:
        """Return the network, its exits in the order of the multiplications that they need, and the output that each is made of."""
        outputs = {self._exit(output, tensor): output for output, tensor in self._graph.exits.items()}
        if self._input_scale is None:
            raise OnnxImportError(f"No output depends on the input {self._graph.input!r}")
        table = self._input_table(self._input_scale)
        network = QuantizedNetwork(
            name=name,
            input_shape=self._graph.input_shape,
            input_table=table,
            layers=(*self._layers, *outputs),
            classes=min(len(layer.scale) for layer in outputs),
        )
        ordered = sorted(outputs, key=lambda layer: _macs_before(network, layer))
        numbered = [replace(layer, name=self._free(f"exit{number}")) for number, layer in enumerate(ordered, start=1)]
        return replace(network, layers=(*self._layers, *numbered)), [outputs[layer] for layer in ordered]

    def _exit(self, output: str, tensor: str) -> Exit:
        found = self._values.get(tensor)
        if not isinstance(found, Products) or not found.is_linear or found.is_clamped:
            raise OnnxImportError(
                f"The output {output!r} must end with a fully connected layer (Gemm or MatMul) and a softmax at most"
            )
        layer, unit = found.exit_layer(self._free(safe_name(output, "logits")))
        self._add(layer)
        return Exit(name=self._free(f"{layer.name}_exit"), inputs=(layer.name,), scale=unit)

    def _free(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._shapes:
            name, number = f"{wanted}_{number}", number + 1
        return name

    def _name(self, node: Node, ending: str = "") -> str:
        return self._free(safe_name(node.name, node.operator) + ending)

    def _add(self, layer: Layer) -> str:
        self._layers.append(layer)
        partial = QuantizedNetwork(
            name="partial", input_shape=self._graph.input_shape, input_table=None, layers=tuple(self._layers), classes=0
        )
        self._shapes = output_shapes(partial)
        return layer.name

    def _signal(self, node: Node, index: int = 0) -> Signal:
        found = self._values.get(node.inputs[index])
        if not isinstance(found, Signal):
            raise OnnxImportError(f"{node} reads {node.inputs[index]!r}, which no QuantizeLinear has rounded to 8 bits")
        return found

    def _constant(self, node: Node, index: int, what: str) -> np.ndarray | Codes | None:
        """Return a constant input; None where it is left out."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name and name not in self._graph.constants:
            raise OnnxImportError(f"The {what} of {node} must be constant")
        return self._graph.constants.get(name) if name else None

    def _real(self, node: Node, index: int, what: str) -> np.ndarray | None:
        found = self._constant(node, index, what)
        return found.real if isinstance(found, Codes) else found

    def _quantize(self, node: Node) -> Signal:
        scale = self._graph.scale_of(node)
        if node.inputs[0] == self._graph.input:
            if self._input_scale not in (None, scale):
                raise OnnxImportError(f"The input {self._graph.input!r} must be rounded by one scale, not by several")
            self._input_scale = scale
            return Signal(INPUT, scale)
        result = self._values.get(node.inputs[0])
        if isinstance(result, Signal):
            result = Addition(first=result)
        if result is None:
            raise OnnxImportError(f"{node} reads {node.inputs[0]!r}, which has no integer form here")
        name = self._name(self._maker(node.inputs[0]))
        lone = isinstance(result, Addition) and result.second is None
        layer = rescaled(name, result, scale) if lone else result.layer(name, scale)
        source = result.first.layer if layer is None else self._add(layer)
        if result.flat:
            source = self._add(Flatten(name=self._free(f"{name}_flat"), inputs=(source,)))
        return Signal(source, scale)

    def _dequantize(self, node: Node) -> Signal:
        return Signal(self._signal(node).layer, self._graph.scale_of(node))

    def _maker(self, tensor: str) -> Node:
        return next(node for node in self._graph.nodes if tensor in node.outputs)

    def _convolution(self, node: Node) -> Products:
        source = self._signal(node)
        codes = self._weight(node)
        if codes.values.ndim != 4 or len(self._shapes[source.layer]) != 3:
            raise OnnxImportError(f"{node} must be a convolution over two dimensions")
        kernel = codes.values.shape[2:]
        stride, pads = self._windows(node, source, kernel)
        height, width = pads[:2], pads[2:]
        options = {"stride": stride, "padding": (0, 0), "groups": node.attributes.get("group", 1)}
        even = height[0] == height[1] < kernel[0] and width[0] == width[1] < kernel[1]
        if even and not source.scale.zero:
            options["padding"] = (height[0], width[0])
        else:
            source = self._padded(node, source, pads, source.scale.zero)
        return self._products(node, source, codes, 0, options)

    def _gemm(self, node: Node) -> Products:
        for attribute, wanted in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
            if node.attributes.get(attribute, wanted) != wanted:
                raise OnnxImportError(f"{node} must have {attribute}={wanted:g}, not {node.attributes[attribute]:g}")
        return self._linear(node, transposed=bool(node.attributes.get("transB", 0)))

    def _linear(self, node: Node, transposed: bool = False) -> Products:
        source = self._signal(node)
        codes = self._weight(node)
        if codes.values.ndim != 2:
            raise OnnxImportError(f"The weights of {node} must have 2 dimensions, not {codes.values.ndim}")
        values = codes.values if transposed else codes.values.T
        return self._products(node, source, replace(codes, values=values), 0 if transposed else 1, {})

    def _weight(self, node: Node) -> Codes:
        codes = self._constant(node, 1, "weight")
        if not isinstance(codes, Codes) or codes.kind == "int32":
            raise OnnxImportError(f"The weights of {node} must be quantised to 8 bits")
        if codes.zero.any():
            raise OnnxImportError(
                f"The weights of {node} must be symmetric, but have the zero point {codes.zero[codes.zero != 0][0]}"
            )
        return codes

    def _products(self, node: Node, source: Signal, codes: Codes, outputs_axis: int, options: dict) -> Products:
        outputs = len(codes.values)
        if codes.scale.size > 1 and (codes.axis != outputs_axis or codes.scale.size != outputs):
            raise OnnxImportError(f"The weights of {node} must be scaled per output channel")
        unit = np.broadcast_to(source.scale.scale * codes.scale, outputs)
        given = self._constant(node, 2, "bias")
        if given is None:
            bias = np.zeros(outputs)
        elif isinstance(given, Codes) and given.kind == "int32" and np.allclose(given.scale, unit, rtol=SCALE_TOLERANCE, atol=0):
            bias = (given.values - given.zero).astype(np.float64)
        else:
            bias = np.asarray(self._real(node, 2, "bias"), np.float64).reshape(-1) / unit
        bias = np.broadcast_to(bias.reshape(-1), outputs)
        return Products(source=source, weight=codes.values, unit=unit, bias=bias, options=options)

    def _add_operator(self, node: Node) -> Result:
        for constant, other in ((1, 0), (0, 1)):
            if node.inputs[constant] in self._graph.constants:
                return self._shifted(node, self._values.get(node.inputs[other]), self._real(node, constant, "summand"))
        return Addition(first=self._signal(node, 0), second=self._signal(node, 1))

    def _shifted(self, node: Node, found: Signal | Result | None, offset: np.ndarray) -> Products:
        products = self._unclamped(node, found)
        shape = (1, len(products.unit)) if products.is_linear else (1, len(products.unit), 1, 1)
        try:
            offset = np.broadcast_to(offset, shape).reshape(-1)
        except ValueError:
            raise OnnxImportError(f"{node} must add one number per channel, not an array of shape {offset.shape}") from None
        return products.affine(np.ones(len(offset)), offset.astype(np.float64))

    def _batch_norm(self, node: Node) -> Products:
        products = self._unclamped(node, self._values.get(node.inputs[0]))
        gain, shift, mean, variance = (self._real(node, index, "statistics").astype(np.float64) for index in range(1, 5))
        gain = gain / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return products.affine(gain, shift - mean * gain)

    def _unclamped(self, node: Node, found: Signal | Result | None) -> Products:
        if not isinstance(found, Products) or found.is_clamped or found.flat:
            raise OnnxImportError(f"{node} with constants must directly follow a convolution or fully connected layer")
        return found

    def _relu(self, node: Node) -> Result:
        return self._clamped(node, 0.0, math.inf)

    def _clip(self, node: Node) -> Result:
        ends = []
        for index, attribute, end in ((1, "min", -math.inf), (2, "max", math.inf)):
            given = self._real(node, index, "range")
            ends.append(node.attributes.get(attribute, end) if given is None else float(given))
        return self._clamped(node, *ends)

    def _clamped(self, node: Node, low: float, high: float) -> Result:
        found = self._values.get(node.inputs[0])
        if found is None:
            raise OnnxImportError(f"{node} reads {node.inputs[0]!r}, which no QuantizeLinear has rounded to 8 bits")
        result = Addition(first=found) if isinstance(found, Signal) else found
        return result.clamped(low, high)

    def _max_pool(self, node: Node) -> Signal:
        source = self._signal(node)
        kernel = self._kernel(node)
        stride, pads = self._windows(node, source, kernel)
        padded = self._padded(node, source, pads, LOWEST)
        return Signal(
            self._add(MaxPool2d(name=self._name(node), inputs=(padded.layer,), kernel=kernel, stride=stride)), source.scale
        )

    def _average_pool(self, node: Node) -> Average:
        source = self._signal(node)
        kernel = self._kernel(node)
        stride, pads = self._windows(node, source, kernel)
        if any(pads) and not node.attributes.get("count_include_pad", 0):
            raise OnnxImportError(f"{node} leaves its padding out of the average, which is not supported")
        return Average(source=self._padded(node, source, pads, source.scale.zero), kernel=kernel, stride=stride)

    def _global_average(self, node: Node) -> Average:
        source = self._signal(node)
        sides = self._shapes[source.layer][1:]
        if len(sides) != 2:
            raise OnnxImportError(f"{node} must average over height and width")
        return Average(source=source, kernel=sides, stride=sides)

    def _reduce_mean(self, node: Node) -> Average:
        axes = self._real(node, 1, "axes")
        axes = node.attributes.get("axes", []) if axes is None else axes.tolist()
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            raise OnnxImportError(f"{node} must average over height and width (axes 2 and 3), not over the axes {list(axes)}")
        return replace(self._global_average(node), flat=not node.attributes.get("keepdims", 1))

    def _flatten(self, node: Node) -> Signal | Result:
        if node.attributes.get("axis", 1) != 1:
            raise OnnxImportError(
                f"{node} must flatten everything but the batch (axis 1), not from axis {node.attributes['axis']} on"
            )
        return self._flattened(node)

    def _reshape(self, node: Node) -> Signal | Result:
        shape = self._constant(node, 1, "shape")
        found = self._values.get(node.inputs[0])
        if isinstance(found, Signal):
            width = math.prod(self._shapes[found.layer])
            if np.size(shape) != 2 or int(shape[1]) not in (width, -1):
                raise OnnxImportError(f"{node} must reshape to (batch, {width}), not to {tuple(np.ravel(shape).tolist())}")
        elif np.size(shape) != 2:
            raise OnnxImportError(f"{node} must reshape to two dimensions, not to {tuple(np.ravel(shape).tolist())}")
        return self._flattened(node)

    def _flattened(self, node: Node) -> Signal | Result:
        found = self._values.get(node.inputs[0])
        if isinstance(found, Result):
            return replace(found, flat=not (isinstance(found, Products) and found.is_linear))
        source = self._signal(node)
        if len(self._shapes[source.layer]) == 1:
            return source
        return Signal(self._add(Flatten(name=self._name(node), inputs=(source.layer,))), source.scale)

    def _same(self, node: Node) -> Signal | Result:
        return self._values.get(node.inputs[0]) or self._signal(node)

    def _pad(self, node: Node) -> Signal:
        source = self._signal(node)
        pads = self._constant(node, 1, "padding")
        pads = np.asarray(node.attributes.get("pads", []) if pads is None else pads)
        if any(node.inputs[3:]) or node.attributes.get("mode", "constant") != "constant":
            raise OnnxImportError(f"{node} must pad all dimensions with a constant")
        if pads.size != 8 or pads[[0, 1, 4, 5]].any() or (pads < 0).any():
            raise OnnxImportError(f"{node} must pad height and width alone, not by {pads.tolist()}")
        value = self._real(node, 2, "value")
        real = node.attributes.get("value", 0.0) if value is None else float(value)
        code = round(real / source.scale.scale) + source.scale.zero
        return self._padded(node, source, tuple(pads[[2, 6, 3, 7]].tolist()), max(LOWEST, min(127, code)))

    def _padded(self, node: Node, source: Signal, pads: tuple[int, int, int, int], value: int) -> Signal:
        if not any(pads):
            return source
        layer = Pad2d(name=self._name(node, "_pad"), inputs=(source.layer,), padding=pads, value=value)
        return Signal(self._add(layer), source.scale)

    def _kernel(self, node: Node) -> tuple[int, int]:
        kernel = tuple(node.attributes["kernel_shape"])
        if len(kernel) != 2 or len(node.outputs) != 1:
            raise OnnxImportError(f"{node} must pool over two dimensions and have one output")
        return kernel

    def _windows(self, node: Node, source: Signal, kernel: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """Return stride and padding (top, bottom, left, right) of a node with windows."""
        if set(node.attributes.get("dilations", [1])) != {1}:
            raise OnnxImportError(f"{node} must not be dilated")
        stride = tuple(node.attributes.get("strides", (1, 1)))
        begins_ends = node.attributes.get("pads", [0, 0, 0, 0])
        pads = list(zip(begins_ends[:2], begins_ends[2:], strict=True))
        sides = self._shapes[source.layer][1:]
        automatic = node.attributes.get("auto_pad", "NOTSET")
        for axis, (side, window, step) in enumerate(zip(sides, kernel, stride, strict=True)):
            if automatic.startswith("SAME"):
                missing = max(0, (-(-side // step) - 1) * step + window - side)
                small, large = missing // 2, missing - missing // 2
                pads[axis] = (small, large) if automatic == "SAME_UPPER" else (large, small)
            elif node.attributes.get("ceil_mode", 0) and (side + sum(pads[axis]) - window) % step:
                raise OnnxImportError(f"{node} has windows beyond the edge (ceil_mode), which are not supported")
        if any(pad < 0 for pair in pads for pad in pair):
            raise OnnxImportError(f"The padding of {node} must not be negative, but is {begins_ends}")
        return stride, (*pads[0], *pads[1])


def _macs_before(network: QuantizedNetwork, layer: Layer) -> int:
    """Return the multiplications per image that the result of a layer needs."""
    needed = set(layer.inputs)
    for earlier in reversed(network.layers):
        if earlier.name in needed:
            needed.update(earlier.inputs)
    return sum(macs(network, weighted.name) for weighted in network.weighted if weighted.name in needed)


OPERATORS: dict[str, Callable[[Builder, Node], Signal | Result]] = {
    "Add": Builder._add_operator,
    "AveragePool": Builder._average_pool,
    "BatchNormalization": Builder._batch_norm,
    "Clip": Builder._clip,
    "Conv": Builder._convolution,
    "DequantizeLinear": Builder._dequantize,
    "Dropout": Builder._same,
    "Flatten": Builder._flatten,
    "Gemm": Builder._gemm,
    "GlobalAveragePool": Builder._global_average,
    "Identity": Builder._same,
    "MatMul": Builder._linear,
    "MaxPool": Builder._max_pool,
    "Pad": Builder._pad,
    "QuantizeLinear": Builder._quantize,
    "ReduceMean": Builder._reduce_mean,
    "Relu": Builder._relu,
    "Reshape": Builder._reshape,
}
