"""The ONNX import against onnxruntime: each operator, quantised networks that were trained, refusals, the command."""

from __future__ import annotations

import functools
import hashlib
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from epsilon import data, multipliers
from epsilon.cli import app
from epsilon.config import ArrayConfig
from epsilon.crosscheck import crosscheck
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.faults import FaultMap
from epsilon.measurement import evaluate
from epsilon.network import Add, AvgPool2d, Convolution, InvalidNetworkError, Pad2d, Relu
from epsilon.network_io import load
from epsilon.onnx_import import OnnxImportError, import_onnx
from epsilon.repair import get_repair
from epsilon.train import _threads
from sim.rtl import RtlAccelerator

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install -e .[dev]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -e .[dev]")

SHAPE = (2, 6, 5)
STEPS = 250


class Sketch:
    """An ONNX model that is written down node by node; values are named after the node that makes them."""

    def __init__(self, shape: tuple, opset: int = 13) -> None:
        self.nodes, self.constants, self.outputs, self.opset = [], [], [], opset
        self.inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]

    def constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, *inputs: str | np.ndarray, name: str = "", **attributes) -> str:
        name = name or f"{operator.lower()}{len(self.nodes)}"
        given = [self.constant(value) if isinstance(value, np.ndarray) else value for value in inputs]
        self.nodes.append(onnx.helper.make_node(operator, given, [name], name=name, **attributes))
        return name

    def rounded(self, source: str, scale: float, zero: np.generic) -> str:
        """Add QuantizeLinear and DequantizeLinear."""
        parameters = np.float32(scale), np.asarray(zero)
        codes = self.node("QuantizeLinear", source, *map(np.asarray, parameters))
        return self.node("DequantizeLinear", codes, *map(np.asarray, parameters))

    def weight(self, codes: np.ndarray, scale: np.ndarray | float, zero: int = 0, **attributes) -> str:
        scale = np.asarray(scale, np.float32)
        return self.node("DequantizeLinear", codes, scale, np.full(scale.shape, zero, codes.dtype), **attributes)

    def output(self, name: str) -> None:
        self.outputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", "classes"]))

    def exit(self, source: str, width: int) -> None:
        """Add an exit whose logits are the real values of ``source``, one class for each."""
        identity = self.weight(np.eye(width, dtype=np.int8), 1.0)
        self.output(self.node("MatMul", self.node("Flatten", source), identity, name=f"logits{len(self.outputs)}"))

    def model(self):
        graph = onnx.helper.make_graph(self.nodes, "sketch", self.inputs, self.outputs, self.constants)
        opset = onnx.helper.make_opsetid("", self.opset)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)

    def save(self, path):
        onnx.save(self.model(), path)
        return path


def reference(path, images: np.ndarray, mean=(0.0,), std=(1.0,)) -> dict[str, np.ndarray]:
    """Return what the model's operators mean, one by one.

    Without optimisation, since onnxruntime's fused kernels for 8 bits saturate at 16 bits on processors without VNNI.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    pixels = (images / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    return dict(zip(outputs, session.run(outputs, {"x": pixels.astype(np.float32)}), strict=True))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def codes(*shape: int, seed: int = 1) -> np.ndarray:
    return rng(seed).integers(-127, 128, shape).astype(np.int8)


def convolution(sketch: Sketch, source: str, channels: int = 4, kernel=(3, 2), **attributes) -> str:
    """A convolution with scales per channel and a bias in the sums' units."""
    reduced = SHAPE[0] // attributes.get("group", 1)
    scale = rng(2).uniform(0.002, 0.01, channels).astype(np.float32)
    weight = sketch.weight(codes(channels, reduced, *kernel), scale, axis=0)
    bias = rng(3).integers(-4000, 4000, channels).astype(np.int32)
    units = (scale * np.float32(1 / 200)).astype(np.float32)
    stored = sketch.node("DequantizeLinear", bias, units, np.zeros(channels, np.int32), axis=0)
    return sketch.node("Conv", source, weight, stored, **attributes)


def batch_norm(sketch: Sketch, source: str, rounded: bool = False) -> str:
    """A convolution whose BatchNorm has gains of either sign, and 0; on request with a rounding between the two."""
    product = convolution(sketch, source)
    product = sketch.rounded(product, 0.02, np.int8(3)) if rounded else product
    gain = np.array([1.5, -0.7, 0.0, 2.0], np.float32)
    rest = [rng(seed).uniform(0.2, 0.8, 4).astype(np.float32) for seed in (4, 5, 6)]
    return sketch.node("BatchNormalization", product, gain, *rest)


def linear(sketch: Sketch, source: str, rounded: bool = False) -> str:
    """A product and its bias apart, as MatMul leaves them, under a ReLU; on request with a rounding between each two."""
    weight = sketch.weight(codes(60, 7), rng(2).uniform(0.001, 0.004, 7), axis=1)
    product = sketch.node("MatMul", sketch.node("Flatten", source), weight)
    product = sketch.rounded(product, 0.015, np.int8(-3)) if rounded else product
    total = sketch.node("Add", product, sketch.weight(codes(7, seed=8), 0.01))
    return sketch.node("Relu", sketch.rounded(total, 0.011, np.int8(4)) if rounded else total)


def residual(sketch: Sketch, source: str) -> str:
    branch = sketch.rounded(sketch.node("Relu", source), 1 / 170, np.int8(-60))
    other = sketch.rounded(sketch.node("MaxPool", source, kernel_shape=[1, 1]), 1 / 200, np.int8(-60))
    return sketch.node("Relu", sketch.node("Add", branch, other))


#: Every operator: what makes it from the rounded input, and how many values it gives.
OPERATORS = {
    "convolution": (lambda s, x: convolution(s, x), 4 * 4 * 4),
    "convolution, all options": (
        lambda s, x: convolution(s, x, group=2, strides=[2, 1], pads=[1, 0, 2, 1], kernel_shape=[3, 2]),
        4 * 4 * 5,
    ),
    "convolution, equal padding": (lambda s, x: convolution(s, x, kernel=(3, 3), pads=[1, 1, 1, 1]), 4 * 6 * 5),
    "convolution, padding of a kernel": (lambda s, x: convolution(s, x, pads=[3, 2, 3, 2]), 4 * 10 * 8),
    "convolution, same upper": (lambda s, x: convolution(s, x, strides=[2, 2], auto_pad="SAME_UPPER"), 4 * 3 * 3),
    "convolution, same lower": (lambda s, x: convolution(s, x, auto_pad="SAME_LOWER"), 4 * 6 * 5),
    "convolution, clip": (
        lambda s, x: s.node("Clip", convolution(s, x), scalar(0), scalar(0.6)),
        64,
    ),
    "convolution, normalised": (lambda s, x: batch_norm(s, x), 64),
    "convolution, scalar added": (lambda s, x: s.node("Add", np.float32([0.25]), convolution(s, x)), 64),
    "linear": (linear, 7),
    "relu": (lambda s, x: s.node("Relu", x), 60),
    "clip": (lambda s, x: s.node("Clip", x, "", scalar(0.4)), 60),
    "other scale": (lambda s, x: s.node("Identity", x), 60),
    "max pool": (lambda s, x: s.node("MaxPool", x, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 1]), 2 * 3 * 5),
    "average pool": (lambda s, x: s.node("AveragePool", x, kernel_shape=[3, 2], strides=[3, 1]), 2 * 2 * 4),
    "average pool, padded": (
        lambda s, x: s.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1),
        2 * 6 * 5,
    ),
    "global average": (lambda s, x: s.node("GlobalAveragePool", x), 2),
    "mean": (lambda s, x: s.node("ReduceMean", x, axes=[-1, 2], keepdims=0), 2),
    "mean, clamped": (lambda s, x: s.node("Relu", s.node("ReduceMean", x, axes=[2, 3])), 2),
    "residual": (residual, 60),
    "pad": (lambda s, x: s.node("Pad", x, np.array([0, 0, 2, 0, 0, 0, 0, 1]), scalar(0.3)), 2 * 8 * 6),
    "reshape": (lambda s, x: s.node("Reshape", x, np.array([-1, 60])), 60),
}


@pytest.mark.parametrize("zeros", [(np.int8(0), np.int8(0)), (np.int8(-60), np.int8(-33)), (np.uint8(50), np.uint8(90))], ids=str)
@pytest.mark.parametrize("what", OPERATORS)
def test_operator_gives_the_codes_of_onnxruntime(tmp_path, what, zeros):
    make, width = OPERATORS[what]
    sketch = Sketch(("N", *SHAPE))
    source = sketch.rounded("x", 1 / 200, zeros[0])
    scale = 0.011
    sketch.exit(sketch.rounded(make(sketch, source), scale, zeros[1]), width)
    path = sketch.save(tmp_path / "model.onnx")
    images = rng(7).integers(0, 256, (40, *SHAPE)).astype(np.uint8)
    (ours,) = evaluate(import_onnx(path), images, multipliers.get("KV6"))
    (theirs,) = reference(path, images).values()
    assert len(np.unique(theirs)) > 12
    # Half up or to even, which averages meet often, float32 or fixed point.
    differences = np.abs(np.rint((ours - theirs) / np.float32(scale)))
    assert differences.max() <= 1
    assert differences.mean() < (0.05 if "average" in what or "mean" in what else 0.005)
    assert np.allclose(np.rint(ours / np.float32(scale)), ours / np.float32(scale), atol=1e-4)


@pytest.mark.parametrize("make", [batch_norm, linear])
def test_roundings_inside_what_is_one_layer_are_left_out(tmp_path, make):
    found = []
    for rounded in (False, True):
        sketch = Sketch(("N", *SHAPE))
        made = make(sketch, sketch.rounded("x", 1 / 200, np.int8(-60)), rounded)
        sketch.exit(sketch.rounded(made, 0.011, np.int8(4)), 64 if make is batch_norm else 7)
        found.append(import_onnx(sketch.save(tmp_path / f"{rounded}.onnx")))
    assert [type(layer) for layer in found[0]] == [type(layer) for layer in found[1]]
    for name, other in zip(*(network.weighted for network in found), strict=True):
        assert (name.weight == other.weight).all()
        assert (name.bias == other.bias).all()


class Trained(nn.Module):
    """A residual network with three exits for 8x8 digits: depthwise convolution padded on two sides, both kinds of average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.pointwise = nn.Conv2d(8, 24, 1)
        self.branch = nn.Conv2d(24, 24, 3, padding=1)
        self.heads = nn.ModuleList([nn.Linear(128, 10), nn.Linear(24, 10), nn.Linear(96, 10)])

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        stem = self.stem(pixels).relu()
        deep = self.depthwise(functional.pad(stem, (0, 1, 0, 1))).clamp(0, 6)
        deep = self.pointwise(deep).relu()
        total = (self.branch(deep) + deep).relu()
        features = functional.avg_pool2d(stem, 2), total.mean((2, 3)), functional.max_pool2d(total, 2)
        return [head(feature.flatten(1)) for head, feature in zip(self.heads, features, strict=True)]

    def sketch(self) -> Sketch:
        """The same as a floating-point ONNX model; its last exit comes first, and one exit gives probabilities."""
        state = {name: value.detach().numpy() for name, value in self.state_dict().items()}

        def convolved(source: str, name: str, **attributes) -> str:
            return sketch.node("Conv", source, state[f"{name}.weight"], state[f"{name}.bias"], name=name, **attributes)

        sketch = Sketch(("N", 1, 8, 8))
        stem = sketch.node("Relu", convolved("x", "stem", pads=[1, 1, 1, 1]))
        deep = convolved(stem, "depthwise", strides=[2, 2], group=8, pads=[0, 0, 1, 1])
        deep = sketch.node("Relu", convolved(sketch.node("Clip", deep, scalar(0), scalar(6)), "pointwise"))
        total = sketch.node("Relu", sketch.node("Add", convolved(deep, "branch", pads=[1, 1, 1, 1]), deep))
        pooled = sketch.node("Flatten", sketch.node("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2]))
        averaged = sketch.node("Flatten", sketch.node("GlobalAveragePool", total))
        early = sketch.node("Reshape", sketch.node("AveragePool", stem, kernel_shape=[2, 2], strides=[2, 2]), np.array([-1, 128]))
        weights = [(state[f"heads.{number}.weight"], state[f"heads.{number}.bias"]) for number in range(3)]
        sketch.output(sketch.node("Gemm", pooled, *weights[2], transB=1, name="last"))
        product = sketch.node("MatMul", early, np.ascontiguousarray(weights[0][0].T))
        sketch.output(sketch.node("Add", product, weights[0][1], name="first"))
        sketch.output(sketch.node("Softmax", sketch.node("Gemm", averaged, *weights[1], transB=1), axis=1, name="middle"))
        return sketch


def scalar(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


@pytest.fixture(scope="module")
def float_model(tmp_path_factory):
    split = data.load("digits", "train")
    pixels, labels = torch.from_numpy(split.images).float() / 255, torch.from_numpy(split.labels)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Trained()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, STEPS)
    with _threads(1):
        for step in range(STEPS):
            part = slice(100 * (step % 10), 100 * (step % 10 + 1))
            loss = sum(functional.cross_entropy(logits, labels[part]) for logits in model(pixels[part]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.sketch().save(tmp_path_factory.mktemp("onnx") / "float.onnx")


class Calibration:
    """The first training images, as onnxruntime asks for them."""

    def __init__(self) -> None:
        images = data.load("digits", "train").images[:200]
        self._batches = iter([{"x": (images / 255).astype(np.float32)}])

    def get_next(self) -> dict | None:
        return next(self._batches, None)


#: Weights scaled per channel, symmetric activations, type of the activations.
VARIANTS = {
    "per tensor": (False, False, "QInt8"),
    "per channel": (True, False, "QInt8"),
    "per tensor, symmetric": (False, True, "QInt8"),
    "per channel, symmetric": (True, True, "QInt8"),
    "per channel, unsigned": (True, False, "QUInt8"),
}


@functools.cache
def quantised(path, variant: str):
    """Return the file of a floating-point model as onnxruntime quantises it."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    per_channel, symmetric, activation = VARIANTS[variant]
    target = path.with_name(f"digits-{variant.replace(', ', '-').replace(' ', '-')}.onnx")
    quantize_static(
        str(path),
        str(target),
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=getattr(QuantType, activation),
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return target


@pytest.mark.parametrize("variant", VARIANTS)
def test_quantised_network_answers_as_in_onnxruntime(float_model, variant):
    path = quantised(float_model, variant)
    network = import_onnx(path)
    assert network.metadata["made"]["outputs"] == ["first", "middle", "last"]
    assert {Add, AvgPool2d, Convolution, Pad2d} <= {type(layer) for layer in network}
    # Every ReLU and Clip is part of the layer before it.
    assert not any(isinstance(layer, Relu) for layer in network)
    assert len([layer for layer in network if isinstance(layer, Add)]) == 1
    test = data.load("digits", "test")
    ours, theirs = evaluate(network, test.images, multipliers.get("KV6")), reference(path, test.images)
    for logits, name in zip(ours, ("first", "middle", "last"), strict=True):
        answers = logits.argmax(axis=1)
        # onnxruntime rounds its logits to 8 bits: where several are the largest, each of them is its answer.
        chosen = theirs[name][np.arange(len(answers)), answers]
        assert (chosen == theirs[name].max(axis=1)).mean() >= 0.995
        assert (answers == test.labels).mean() > 0.9


def test_imported_network_is_the_same_on_the_rtl(float_model):
    network = import_onnx(quantised(float_model, "per channel, unsigned"))
    config = ArrayConfig(rows=4, cols=3, multiplier="KV6")
    images = encode(network, data.load("digits", "test").images[:2])
    maps = {"array": FaultMap.sample(network, config, site="array", rate=0.5, polarity="both", seed=3)}
    policies = [get_repair("nearest")]
    report = crosscheck(Emulator(config), RtlAccelerator(config), network, images, fault_maps=maps, repairs=policies)
    assert report.equal, str(report.first)
    assert report.compared > 10_000


def test_preprocessing_gives_the_codes_of_onnxruntime(tmp_path):
    sketch = Sketch(("N", 2, 16, 16))
    sketch.exit(sketch.rounded("x", 0.03, np.uint8(111)), 512)
    path = sketch.save(tmp_path / "model.onnx")
    mean, std = [0.48, 0.5], [0.2, 0.31]
    images = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 2, 1, 1))
    network = import_onnx(path, mean=mean, std=std)
    (ours,) = evaluate(network, images, multipliers.get("KV6"))
    (theirs,) = reference(path, images, mean, std).values()
    assert (np.rint(ours / 0.03) == np.rint(theirs / 0.03)).all()
    assert len(np.unique(network.input_table, axis=0)) == 2
    assert network.metadata["made"]["mean"] == mean
    with pytest.raises(OnnxImportError, match=r"mean must be one number, or one for each of the 2 channels, not \[0.1, 0.2, 0.3\]"):
        import_onnx(path, mean=[0.1, 0.2, 0.3])
    with pytest.raises(OnnxImportError, match="std of a channel must be positive, not 0"):
        import_onnx(path, std=[1.0, 0.0])


def test_exit_that_needs_fewer_multiplications_comes_first_and_names_do_not_collide(tmp_path):
    sketch = Sketch(("N", *SHAPE))
    source = sketch.rounded("x", 1 / 200, np.int8(0))
    late = sketch.rounded(convolution(sketch, source), 0.011, np.int8(0))
    sketch.exit(late, 64)
    again = sketch.node("MaxPool", late, kernel_shape=[4, 1], strides=[1, 1], name="exit1")
    sketch.exit(sketch.rounded(again, 0.011, np.int8(0)), 16)
    path = sketch.save(tmp_path / "model.onnx")
    with pytest.raises(InvalidNetworkError, match="must have 16 classes, not 64"):
        import_onnx(path)
    sketch = Sketch(("N", *SHAPE))
    source = sketch.rounded("x", 1 / 200, np.int8(0))
    late = sketch.rounded(convolution(sketch, source, kernel=(1, 1)), 0.011, np.int8(0))
    scales = {source: 1 / 200, late: 0.011}
    for value, name in ((late, "input"), (source, "exit1")):
        pooled = sketch.rounded(sketch.node("MaxPool", value, kernel_shape=[6, 5], name=name), scales[value], np.int8(0))
        channels = 4 if value is late else 2
        weight = sketch.weight(codes(channels, 3), 0.01)
        sketch.output(sketch.node("MatMul", sketch.node("Flatten", pooled), weight, name=f"logits {name}"))
    network = import_onnx(sketch.save(tmp_path / "model.onnx"))
    assert network.metadata["made"]["outputs"] == ["logits exit1", "logits input"]
    assert [layer.name for layer in network.exits] == ["exit1_2", "exit2"]
    assert "input_2" in {layer.name for layer in network}
    assert len(evaluate(network, rng().integers(0, 256, (3, *SHAPE)).astype(np.uint8), "KV6")) == 2


def unweighted(sketch: Sketch, source: str) -> str:
    return sketch.node("Conv", source, np.ones((4, 2, 3, 3), np.float32), name="plain")


def asymmetric(sketch: Sketch, source: str) -> str:
    return sketch.node("Conv", source, sketch.weight(codes(4, 2, 3, 3), 0.01, zero=3), name="odd")


def wrong_axis(sketch: Sketch, source: str) -> str:
    weight = sketch.weight(codes(4, 2, 3, 3), np.array([0.1, 0.2], np.float32), axis=1)
    return sketch.node("Conv", source, weight, name="crossed")


def sixteen_bits(sketch: Sketch, source: str) -> str:
    return sketch.rounded(sketch.node("Relu", source), 1e-4, np.int16(0))


#: What makes a value from the rounded input, and the sentence that refuses it.
REFUSED = {
    "operator": (lambda s, x: s.node("Concat", x, x, axis=1, name="join"), r"operator Concat 'join' is not supported"),
    "first operator": (lambda s, x: s.node("Sigmoid", s.node("Tanh", x, name="one"), name="two"), r"operator Tanh 'one' is not"),
    "float weights": (unweighted, r"weights of Conv 'plain' must be quantised to 8 bits"),
    "weight zero point": (asymmetric, r"weights of Conv 'odd' must be symmetric, but have the zero point 3"),
    "weight scales": (wrong_axis, r"weights of Conv 'crossed' must be scaled per output channel"),
    "16 bits": (sixteen_bits, r"has codes of type int16: activations and weights must be int8 or uint8"),
    "unrounded": (
        lambda s, x: s.node("MaxPool", s.node("Relu", x, name="r"), kernel_shape=[2, 2]),
        r"reads 'r', which no Quantize",
    ),
    "dilation": (lambda s, x: convolution(s, x, dilations=[2, 1]), r"must not be dilated"),
    "ceil mode": (lambda s, x: s.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), r"windows beyond the edge"),
    "average": (lambda s, x: s.node("AveragePool", x, kernel_shape=[2, 2], pads=[1, 1, 1, 1]), r"leaves its padding out"),
    "mean": (lambda s, x: s.node("ReduceMean", x, axes=[1]), r"\(axes 2 and 3\), not over the axes \[1\]"),
    "flatten": (lambda s, x: s.node("Flatten", x, axis=2), r"\(axis 1\), not from axis 2 on"),
    "reshape": (lambda s, x: s.node("Reshape", x, np.array([-1, 2, 30])), r"reshape to \(batch, 60\), not to \(-1, 2, 30\)"),
    "constant added": (lambda s, x: s.node("Add", x, np.ones((1, 2, 1, 1), np.float32)), r"must directly follow a convolution"),
    "array added": (lambda s, x: s.node("Add", convolution(s, x), np.ones((1, 4, 4, 4), np.float32)), r"one number per channel"),
    "padding": (lambda s, x: s.node("Pad", x, np.array([0, 1, 0, 0, 0, 0, 0, 0])), r"must pad height and width alone"),
    "reflection": (lambda s, x: s.node("Pad", x, np.array([0, 0, 1, 0, 0, 0, 0, 0]), mode="reflect"), r"with a constant"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_integer_form_is_refused_by_name(tmp_path, what):
    make, message = REFUSED[what]
    sketch = Sketch(("N", *SHAPE))
    made = make(sketch, sketch.rounded("x", 1 / 200, np.int8(-3)))
    sketch.exit(sketch.rounded(made, 0.011, np.int8(0)), 4)
    with pytest.raises(OnnxImportError, match=message) as caught:
        import_onnx(sketch.save(tmp_path / "model.onnx"))
    assert "\n" not in str(caught.value)


def ending(sketch: Sketch, source: str, **attributes) -> str:
    weight = sketch.weight(codes(60, 3), 0.01)
    return sketch.node("Gemm", sketch.node("Flatten", source), weight, name="last", **attributes)


REFUSED_ENDS = {
    "relu": (lambda s, x: s.node("Relu", ending(s, x)), "must end with a fully connected layer"),
    "no layer": (lambda s, x: s.node("Softmax", s.node("Flatten", x)), "must end with a fully connected layer"),
    "softmax": (lambda s, x: s.node("Softmax", ending(s, x), axis=0), "must run over the classes"),
    "alpha": (lambda s, x: ending(s, x, alpha=0.5), "Gemm 'last' must have alpha=1, not 0.5"),
}


@pytest.mark.parametrize("what", REFUSED_ENDS)
def test_exits_that_are_no_classifiers_are_refused(tmp_path, what):
    make, message = REFUSED_ENDS[what]
    sketch = Sketch(("N", *SHAPE))
    sketch.output(make(sketch, sketch.rounded("x", 1 / 200, np.int8(0))))
    with pytest.raises(OnnxImportError, match=message):
        import_onnx(sketch.save(tmp_path / "model.onnx"))


def refused(*arguments: object) -> str:
    """Run ``epsilon import`` with what cannot work; return the sentence."""
    result = CliRunner().invoke(app, ["import", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("epsilon: ")]
    return line.removeprefix("epsilon: ")


def test_command_refuses_files_that_are_no_quantised_model(tmp_path):
    output = tmp_path / "network.safetensors"
    path = tmp_path / "model.onnx"
    sketch = Sketch(("N", *SHAPE))
    sketch.output(ending(sketch, sketch.rounded("x", 1 / 200, np.int8(0))))
    whole = sketch.model().SerializeToString()
    for content in (b"", b"\x89PNG\r\n\x1a\n" * 20, b"no model", *(whole[:length] for length in range(1, len(whole), 151))):
        path.write_bytes(content)
        assert " is not a" in refused(path, "-o", output)
    path.write_bytes(whole)
    assert "mean must be one number" in refused(path, "-o", output, "--mean", "1,2,3")
    assert "--std must be numbers separated by commas, not 'x'" in refused(path, "-o", output, "--std", "x")
    assert "--for needs --dataset" in refused(path, "-o", output, "--for", "KVP")
    assert "data set must be one of" in refused(path, "-o", output, "--dataset", "nothing")
    assert "There is no folder" in refused(path, "-o", tmp_path / "missing" / "network.safetensors")
    assert "No such file" in refused(tmp_path / "missing.onnx", "-o", output)
    assert "must have the shape (batch, 2, 6, 5)" in refused(path, "-o", output, "--dataset", "digits", "-m", "KV6")
    plain = Sketch(("N", *SHAPE))
    plain.output(plain.node("Gemm", plain.node("Flatten", "x"), np.ones((60, 3), np.float32)))
    assert "is a floating-point model: quantise it with" in refused(plain.save(path), "-o", output)
    for shape, shown in ((("N", 2, "H", 5), "(N, 2, H, 5)"), (("N", 60), "(N, 60)")):
        dynamic = Sketch(shape)
        dynamic.output(ending(dynamic, dynamic.rounded("x", 1 / 200, np.int8(0))))
        assert refused(dynamic.save(path), "-o", output).endswith(f"of fixed size, not float {shown}")
    old = Sketch(("N", *SHAPE), opset=9)
    old.output(ending(old, old.rounded("x", 1 / 200, np.int8(0))))
    assert "is not a valid ONNX model" in refused(old.save(path), "-o", output)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_command_without_the_package_says_how_to_get_it(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'epsilon-accelerator[onnx]'" in refused(path, "-o", tmp_path / "network.safetensors")


def test_command_fits_thresholds_and_the_network_runs(float_model, tmp_path):
    path = quantised(float_model, "per channel, symmetric")
    output = tmp_path / "mine.safetensors"
    arguments = ["import", path, "-o", output, "--dataset", "digits", "-m", "KVP", "-m", "KV6"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    network = load(output)
    assert "7 layers on the array, 3 exits" in result.stdout
    assert f"{network.metadata['macs_per_image']:,} MACs per image" in result.stdout
    assert set(network.metadata["gamma"]) == {"v2022/mul8s_1KVP", "v2022/mul8s_1KV6"}
    assert network.metadata["accuracy"]["validation"]["by_multiplier"]["v2022/mul8s_1KV6"]["multi_exit"] > 0.9
    assert network.metadata["made"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert CliRunner().invoke(app, ["run", "--network", str(output), "--images", "5"]).exit_code == 0
    result = CliRunner().invoke(app, ["import", str(path), "-o", str(output)])
    assert "give --gamma to `epsilon run`" in result.stdout
    assert "gamma" not in load(output).metadata
