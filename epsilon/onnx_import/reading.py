"""Reads the graph of a quantised ONNX model: nodes, constants and exits, checked and simplified.

Ref: ONNX operators QuantizeLinear and DequantizeLinear: ``real = scale * (code - zero)``. uint8 codes and zero points are read as
int8 ones, 128 less, which changes no real value.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["Codes", "Graph", "Node", "OnnxImportError", "Scale", "read"]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = ("Conv", "Gemm", "MatMul")
CLAMPS = ("Relu", "Clip")
#: What may stand between the last fully connected layer of an exit and the output: no order of the classes depends on it.
ENDINGS = ("Softmax", "LogSoftmax", "Identity", "Dropout", "Flatten", "Reshape")
OFFSETS = {"int8": 0, "uint8": 128}
QDQ_ADVICE = "quantise it with onnxruntime.quantization.quantize_static and QuantFormat.QDQ"


class OnnxImportError(ValueError):
    """An ONNX model that has no integer form here."""


@dataclass(frozen=True)
class Scale:
    """What the int8 codes of an activation mean: ``real = scale * (code - zero)``."""

    scale: float
    zero: int


@dataclass(frozen=True, eq=False)
class Codes:
    """A constant that is stored as integers: ``real = scale * (values - zero)``.

    Parameters
    ----------
    values : int64
        int8 codes, also for a uint8 constant; int32 ones of a bias.
    scale : float64 (1,) or (N,)
    zero : int64 (1,) or (N,)
    axis : int
        That scales and zero points run along.
    kind : str
        The element type in the file.
    """

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int
    kind: str

    @property
    def real(self) -> np.ndarray:
        """The values, float64."""
        shape = [1] * self.values.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        return self.scale.reshape(shape) * (self.values - self.zero.reshape(shape))


@dataclass(frozen=True, eq=False)
class Node:
    """One operator; ``inputs`` and ``outputs`` name tensors, and an input that is left out is empty."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict

    def __str__(self) -> str:
        return f"{self.operator} {self.name!r}"


@dataclass(frozen=True, eq=False)
class Graph:
    """What of a model leads to its exits.

    Parameters
    ----------
    input : str
    input_shape : (C, H, W)
    nodes : tuple of Node
        In execution order, without constants.
    constants : dict
        float or integer arrays, and ``Codes``, by tensor.
    exits : dict
        By the name of an output, the tensor of its logits before they are rounded.
    """

    input: str
    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray | Codes]
    exits: dict[str, str]

    def scale_of(self, node: Node) -> Scale:
        """Return the scale of an activation that a node rounds or makes real again.

        Raises
        ------
        OnnxImportError
            When it is not one positive number, or the type is not int8 or uint8.
        """
        scale, zero, kind = _parameters(node, self.constants)
        if scale.size != 1:
            raise OnnxImportError(f"{node} scales an activation per channel, and only one scale for all is supported")
        return Scale(float(scale[0]), int(zero[0]) - _offset(node, kind))


def read(path: Path) -> Graph:
    """Return the graph of a model file.

    Raises
    ------
    OSError
        When the file cannot be read.
    OnnxImportError
        In one sentence, for a file that is no ONNX model or a damaged one, a model that is not quantised in QDQ form, one whose
        input is not a batch of images of fixed size, and without the package onnx.
    """
    model = _parsed(path)
    graph = model.graph
    operators = {node.op_type for node in graph.node}
    if not operators & {QUANTIZE, DEQUANTIZE}:
        integer = sorted(name for name in operators if name.startswith("QLinear") or name.endswith("Integer"))
        found = f"is quantised in another form ({integer[0]})" if integer else "is a floating-point model"
        raise OnnxImportError(f"{path} {found}: {QDQ_ADVICE}")
    constants = _stored(path, graph)
    shape_of = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    if len(shape_of) != 1:
        raise OnnxImportError(f"{path} must have exactly one input, not {len(shape_of)}")
    ((source, tensor),) = shape_of.items()
    nodes = _without_constants([_node(node) for node in graph.node], constants)
    nodes = _unrounded(nodes, constants)
    made_by = {output: node for node in nodes for output in node.outputs}
    exits = {output.name: _logits(output.name, made_by) for output in graph.output}
    needed = set(exits.values())
    live: list[Node] = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            live.append(node)
            needed.update(node.inputs)
    return Graph(source, _input_shape(path, tensor), tuple(reversed(live)), constants, exits)


def _parsed(path: Path) -> onnx.ModelProto:
    content = path.read_bytes()
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise OnnxImportError("Reading ONNX models needs the package onnx: pip install 'epsilon-accelerator[onnx]'") from None
    try:
        model = onnx.load_model_from_string(content)
        if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
            raise OnnxImportError(f"{path} keeps its tensors in other files: save the model as one file")
        onnx.checker.check_model(model)
    except DecodeError:
        raise OnnxImportError(f"{path} is not an ONNX model, or was cut off") from None
    except onnx.checker.ValidationError as error:
        raise OnnxImportError(f"{path} is not a valid ONNX model ({str(error).strip().splitlines()[0]})") from None
    return model


def _stored(path: Path, graph: onnx.GraphProto) -> dict[str, np.ndarray | Codes]:
    import onnx

    try:
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (ValueError, TypeError) as error:
        raise OnnxImportError(f"{path} holds a tensor that cannot be read ({str(error).splitlines()[0]})") from None


def _node(node: onnx.NodeProto) -> Node:
    import onnx

    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    # Names of operators outside ONNX and ONNX Runtime's own QuantizeLinear are kept apart from those inside.
    inside = node.domain in ("", "ai.onnx") or (node.domain == "com.microsoft" and node.op_type in (QUANTIZE, DEQUANTIZE))
    operator = node.op_type if inside else f"{node.domain}.{node.op_type}"
    return Node(operator, node.name or node.output[0], tuple(node.input), tuple(node.output), attributes)


def _input_shape(path: Path, tensor: onnx.TypeProto.Tensor) -> tuple[int, int, int]:
    import onnx

    sides = [dimension.dim_value or dimension.dim_param or "?" for dimension in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(sides) != 4 or not all(isinstance(side, int) for side in sides[1:]):
        shown = f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} ({', '.join(map(str, sides))})"
        raise OnnxImportError(f"The input of {path} must be float (batch, channels, height, width) of fixed size, not {shown}")
    return tuple(sides[1:])


def _without_constants(nodes: list[Node], constants: dict[str, np.ndarray | Codes]) -> list[Node]:
    """Return the nodes that need the input, after putting the results of the others into ``constants``."""
    import onnx

    remaining = []
    for node in nodes:
        given = constants.get(node.inputs[0]) if node.inputs else None
        if node.operator == "Constant" and "value" in node.attributes:
            constants[node.outputs[0]] = onnx.numpy_helper.to_array(node.attributes["value"])
        elif node.operator == "Constant":
            constants[node.outputs[0]] = np.asarray(next(iter(node.attributes.values())))
        elif given is not None and node.operator == "Identity":
            constants[node.outputs[0]] = given
        elif given is not None and node.operator == QUANTIZE:
            constants[node.outputs[0]] = _quantized(node, given, constants)
        elif given is not None and node.operator == DEQUANTIZE:
            constants[node.outputs[0]] = _dequantized(node, given, constants)
        else:
            remaining.append(node)
    return remaining


def _parameters(node: Node, constants: dict[str, np.ndarray | Codes]) -> tuple[np.ndarray, np.ndarray, str]:
    """Return scale, zero point as stored, and element type of a QuantizeLinear or DequantizeLinear."""
    import onnx

    scale, zero = (constants.get(name) for name in (*node.inputs, "", "")[1:3])
    if not isinstance(scale, np.ndarray) or (len(node.inputs) > 2 and node.inputs[2] and not isinstance(zero, np.ndarray)):
        raise OnnxImportError(f"The scale and zero point of {node} must be constants")
    if node.attributes.get("block_size"):
        raise OnnxImportError(f"{node} is quantised in blocks, which is not supported")
    scale = scale.astype(np.float64).reshape(-1)
    if not np.isfinite(scale).all() or (scale <= 0).any():
        raise OnnxImportError(f"The scale of {node} must be positive and finite")
    if zero is not None:
        return scale, zero.astype(np.int64).reshape(-1), str(zero.dtype)
    number = node.attributes.get("output_dtype", 0)
    kind = onnx.TensorProto.DataType.Name(number).lower() if number else "uint8"
    return scale, np.zeros_like(scale, np.int64), kind


def _offset(node: Node, kind: str) -> int:
    if kind not in OFFSETS:
        raise OnnxImportError(f"{node} has codes of type {kind}: activations and weights must be int8 or uint8")
    return OFFSETS[kind]


def _quantized(node: Node, given: np.ndarray | Codes, constants: dict[str, np.ndarray | Codes]) -> np.ndarray:
    scale, zero, kind = _parameters(node, constants)
    _offset(node, kind)
    limits = np.iinfo(kind)
    shape = [1] * given.ndim
    if scale.size > 1:
        shape[node.attributes.get("axis", 1)] = -1
    codes = np.rint(given / scale.reshape(shape)) + zero.reshape(shape)
    return codes.clip(limits.min, limits.max).astype(kind)


def _dequantized(node: Node, given: np.ndarray | Codes, constants: dict[str, np.ndarray | Codes]) -> Codes:
    scale, zero, _ = _parameters(node, constants)
    kind = str(given.dtype)
    offset = 0 if kind == "int32" else _offset(node, kind)
    axis = node.attributes.get("axis", 1) % max(1, given.ndim)
    return Codes(given.astype(np.int64) - offset, scale, zero - offset, axis, kind)


def _unrounded(nodes: list[Node], constants: dict[str, np.ndarray | Codes]) -> list[Node]:
    """Return the nodes with roundings left out that change nothing, or that stand inside what is one layer here.

    Left out is a rounding before a ReLU or Clip that is rounded by the same scale again (equal codes), and one between a product
    and the bias or BatchNorm that follows it.
    """
    made_by = {output: node for node in nodes for output in node.outputs}
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)

    def rounding(name: str) -> Node | None:
        """Return the QuantizeLinear that a tensor comes from, when nothing else reads what it made."""
        back = made_by.get(name)
        forth = made_by.get(back.inputs[0]) if back is not None and back.operator == DEQUANTIZE else None
        if forth is None or forth.operator != QUANTIZE or len(readers[name]) != 1 or len(readers[back.inputs[0]]) != 1:
            return None
        return forth

    def is_left_out(node: Node, before: Node) -> bool:
        if node.operator in CLAMPS:
            after = readers[node.outputs[0]]
            same = [_parameters(each, constants) for each in (before, *after) if each.operator == QUANTIZE]
            return len(same) == 2 and len(after) == 1 and all(map(np.array_equal, *same))
        maker = made_by.get(before.inputs[0])
        by_constants = node.operator == "BatchNormalization" or (
            node.operator == "Add" and any(name in constants for name in node.inputs)
        )
        return by_constants and maker is not None and maker.operator in PRODUCTS

    changed = []
    for node in nodes:
        inputs = list(node.inputs)
        for index, name in enumerate(inputs):
            before = rounding(name)
            if before is not None and is_left_out(node, before):
                inputs[index] = before.inputs[0]
        changed.append(replace(node, inputs=tuple(inputs)))
    return changed


def _logits(output: str, made_by: dict[str, Node]) -> str:
    """Return the tensor that an output is the softmax of, before it is rounded."""
    name = output
    while (node := made_by.get(name)) is not None:
        if node.operator in ("Softmax", "LogSoftmax") and node.attributes.get("axis", -1) not in (1, -1):
            raise OnnxImportError(f"{node} must run over the classes (axis 1 or -1), not over axis {node.attributes['axis']}")
        if node.operator not in (QUANTIZE, DEQUANTIZE, *ENDINGS):
            break
        name = node.inputs[0]
    return name
