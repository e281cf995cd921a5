"""The network file: round trip, validation, and every kind of damage."""

import json
import shutil
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from epsilon import multipliers, network_io
from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    InvalidNetworkError,
    Linear,
    MaxPool2d,
    QuantizedNetwork,
    Relu,
    Requantization,
)
from epsilon.network_io import load, network_digest, save, to_bytes, validate
from epsilon.validation import macs, output_shapes


def requantization(count: int = 1, low: int = 0) -> Requantization:
    return Requantization(np.full(count, 2**30, np.int32), np.full(count, 39, np.int8), low)


def make_network() -> QuantizedNetwork:
    """One layer of each kind, two exits."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    layers = (
        Convolution(
            name="conv",
            inputs=("input",),
            weight=weights(4, 1, 3, 2),
            bias=np.arange(4, dtype=np.int32),
            requantization=requantization(4),
            stride=(2, 1),
            padding=(1, 0),
            groups=2,
        ),
        Relu(name="relu", inputs=("conv",)),
        MaxPool2d(name="max", inputs=("relu",), kernel=(2, 2), stride=(1, 2)),
        AvgPool2d(name="avg", inputs=("max",), kernel=(1, 2), stride=(1, 1), requantization=requantization(low=-128)),
        Flatten(name="flat", inputs=("avg",)),
        Linear(name="fc1", inputs=("flat",), weight=weights(3, 16), bias=np.zeros(3, np.int32)),
        Exit(name="exit1", inputs=("fc1",), scale=np.array([0.5, 1.0, 2.0])),
        Linear(
            name="hidden", inputs=("flat",), weight=weights(5, 16), bias=np.zeros(5, np.int32), requantization=requantization(5)
        ),
        Linear(name="fc2", inputs=("hidden",), weight=weights(3, 5), bias=np.zeros(3, np.int32)),
        Exit(name="exit2", inputs=("fc2",), scale=np.ones(3)),
    )
    table = np.arange(512).reshape(2, 256).astype(np.uint8).view(np.int8)
    metadata = {"gamma": {"v2022/mul8s_1KVP": 0.7}, "seed": 3}
    return QuantizedNetwork(name="all-kinds", input_shape=(2, 6, 7), input_table=table, layers=layers, classes=3, metadata=metadata)


@pytest.fixture
def network():
    return make_network()


def changed(network, target, /, **fields):
    return replace(network, layers=tuple(replace(layer, **fields) if layer.name == target else layer for layer in network.layers))


def test_round_trip(network, tmp_path):
    path = tmp_path / "network.safetensors"
    save(network, path)
    again = load(path)
    assert to_bytes(again) == to_bytes(network) == path.read_bytes()
    assert network_digest(again) == network_digest(network)
    assert again.metadata == network.metadata
    assert [type(layer) for layer in again] == [type(layer) for layer in network]
    assert (again["conv"].weight == network["conv"].weight).all()
    assert (again["conv"].stride, again["conv"].padding, again["conv"].groups) == ((2, 1), (1, 0), 2)
    assert (again["avg"].requantization.low, again["avg"].requantization.high, again["avg"].requantization.zero) == (-128, 127, 0)
    assert again["fc1"].requantization is None
    assert again["exit1"].scale.tolist() == [0.5, 1.0, 2.0]
    assert list(tmp_path.iterdir()) == [path]


def test_round_trip_of_a_residual_network(residual_network, tmp_path):
    path = tmp_path / "network.safetensors"
    save(residual_network, path)
    again = load(path)
    assert to_bytes(again) == to_bytes(residual_network) == path.read_bytes()
    total, pad = again["sum"], again["pad"]
    assert (total.inputs, total.multiplier.tolist()) == (("branch", "stem"), [1_500_000_000, 1_000_000_000])
    assert (total.shift, total.bias, total.low, total.high) == (31, -(5 << 31), -100, 127)
    assert (pad.padding, pad.value) == ((0, 2, 2, 0), -7)
    assert again["pool"].bias == 35
    assert (again["branch"].requantization.zero, again["stem"].requantization.zero) == (-3, 0)
    assert output_shapes(again)["pad"] == (6, 8, 8)
    digests = {
        network_digest(changed(residual_network, name, **fields))
        for name, fields in (("sum", {}), ("sum", {"bias": 0}), ("sum", {"low": 0}), ("pad", {"value": 0}), ("pool", {"bias": 0}))
    }
    assert len(digests) == 5


@pytest.mark.parametrize("name", network_io.builtin_names())
def test_networks_that_come_with_the_project_are_saved_byte_for_byte(name):
    source = resources.files("epsilon").joinpath("networks", f"{name}.safetensors").read_bytes()
    assert to_bytes(load(name)) == source


def test_shapes_and_macs(network):
    shapes = output_shapes(network)
    assert shapes["conv"] == (4, 3, 6)
    assert shapes["max"] == (4, 2, 3)
    assert shapes["avg"] == (4, 2, 2)
    assert shapes["exit2"] == (3,)
    assert macs(network, "conv") == 4 * 6 * 18
    assert macs(network) == 4 * 6 * 18 + 3 * 16 + 5 * 16 + 3 * 5


def test_digest_follows_what_is_executed(network):
    digest = network_digest(network)
    assert network_digest(replace(network, metadata={})) == digest
    weight = network["conv"].weight.copy()
    weight[3, 0, 2, 1] ^= 1
    assert network_digest(changed(network, "conv", weight=weight)) != digest
    assert network_digest(changed(network, "max", stride=(1, 1))) != digest
    assert network_digest(changed(network, "conv", requantization=replace(requantization(4), high=126))) != digest


def test_truncated_file_is_refused_at_every_length(network, tmp_path):
    whole = to_bytes(network)
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, 64), *range(64, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidNetworkError) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_altered_byte_is_refused_wherever_it_is(network, tmp_path):
    whole = to_bytes(network)
    path = tmp_path / "altered.safetensors"
    for place in [*range(0, len(whole), 13), len(whole) - 1]:
        content = bytearray(whole)
        content[place] ^= 0x11
        path.write_bytes(content)
        with pytest.raises(InvalidNetworkError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InvalidNetworkError):
        load(path)


def rewritten(network, change) -> bytes:
    """A file with a changed header and a checksum that fits again."""
    whole = to_bytes(network)
    length = int.from_bytes(whole[:8], "little")
    written = json.loads(whole[8 : 8 + length])["__metadata__"][network_io.FORMAT]
    header, tensors = json.loads(written), from_safetensors(whole)
    del header["sha256"]
    change(header, tensors)
    header["sha256"] = network_io._digest(header, tensors)
    return to_safetensors(tensors, metadata={network_io.FORMAT: json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, tensors: header.update(version=2), "format version 2"),
        (lambda header, tensors: header.pop("structure"), "does not describe a network"),
        (lambda header, tensors: header["structure"].pop("classes"), "does not describe a network"),
        (lambda header, tensors: header["structure"]["layers"][0].update(kind="Dropout"), "unknown kind, 'Dropout'"),
        (lambda header, tensors: header["structure"]["layers"][0].pop("groups"), "does not describe a network"),
        (lambda header, tensors: header["structure"]["layers"][0].update(stride=2), "does not describe a network"),
        (lambda header, tensors: header["structure"]["layers"][0].update(stride=[2.5, 1]), "two integers of at least 1"),
        (lambda header, tensors: header["structure"]["layers"][0].update(clamp=[0]), "does not describe a network"),
        (lambda header, tensors: header["structure"].update(layers=7), "does not describe a network"),
        (lambda header, tensors: header.update(metadata=[]), "metadata must be a dictionary"),
        (lambda header, tensors: tensors.pop("conv/bias"), "does not describe a network"),
        (lambda header, tensors: tensors.update(other=np.zeros(2, np.int8)), "belong to no layer: other"),
        (lambda header, tensors: tensors.update({"conv/bias": np.zeros(4, np.int64)}), "must be int32"),
    ],
)
def test_wrong_header_with_a_right_checksum_is_refused(network, tmp_path, change, message):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(rewritten(network, change))
    with pytest.raises(InvalidNetworkError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_unchanged_header_is_accepted(network, tmp_path):
    path = tmp_path / "same.safetensors"
    path.write_bytes(rewritten(network, lambda header, tensors: None))
    assert network_digest(load(path)) == network_digest(network)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(to_safetensors({"weight": np.zeros(3, np.float32)}))
    with pytest.raises(InvalidNetworkError, match="not one of a quantised network"):
        load(path)
    path.write_bytes(to_safetensors({"weight": np.zeros(3, np.float32)}, metadata={network_io.FORMAT: "[]"}))
    with pytest.raises(InvalidNetworkError, match="does not describe a network"):
        load(path)
    for content in (b"", b"PK\x03\x04 a zip file", bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(InvalidNetworkError, match="not a readable network file"):
            load(path)
    for missing in ("no-such-network", tmp_path, tmp_path / "nothing.safetensors"):
        with pytest.raises(InvalidNetworkError, match="There is no network file"):
            load(missing)


def test_save_is_all_or_nothing(network, tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    with pytest.raises(InvalidNetworkError):
        save(replace(network, classes=4), path)
    assert list(tmp_path.iterdir()) == []
    save(network, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(network_io.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(replace(network, name="other"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_next_to_us_does_not_hide_a_builtin(tmp_path, monkeypatch, network):
    assert set(network_io.builtin_names()) >= {"digits", "mnist"}
    monkeypatch.chdir(tmp_path)
    save(network, tmp_path / "digits")
    assert load("digits").name == "digits"
    assert load("./digits").name == "all-kinds"
    shutil.move(tmp_path / "digits", tmp_path / "mine")
    assert load("mine").name == "all-kinds"


def without(network, target):
    return replace(network, layers=tuple(layer for layer in network.layers if layer.name != target))


def conv_weight(*shape):
    return {"weight": np.ones(shape, np.int8)}


WRONG = {
    "name twice": (lambda n: changed(n, "relu", name="conv"), "used twice"),
    "name reserved": (lambda n: changed(n, "conv", name="input"), "used twice"),
    "name with slash": (lambda n: changed(n, "relu", name="a/b"), "letters, digits"),
    "network name": (lambda n: replace(n, name=""), "letters, digits"),
    "unknown input": (lambda n: changed(n, "relu", inputs=("convolution",)), "does not come before"),
    "later input": (lambda n: changed(n, "conv", inputs=("fc1",)), "does not come before"),
    "two inputs": (lambda n: changed(n, "relu", inputs=("conv", "conv")), "exactly one input"),
    "no exit": (lambda n: replace(n, layers=()), "no exit"),
    "dead layer": (lambda n: replace(n, layers=(*n.layers, Relu(name="dead", inputs=("conv",)))), "leads to no exit"),
    "input shape": (lambda n: replace(n, input_shape=(2, 6)), "three positive integers"),
    "input table": (lambda n: replace(n, input_table=n.input_table[:1]), r"int8 \(2, 256\)"),
    "classes": (lambda n: replace(n, classes=1), "at least 2"),
    "other classes": (lambda n: replace(n, classes=4), "must have 4 classes, not 3"),
    "metadata": (lambda n: replace(n, metadata={"x": object()}), "written as JSON"),
    "metadata nan": (lambda n: replace(n, metadata={"x": float("nan")}), "written as JSON"),
    "conv weight type": (lambda n: changed(n, "conv", weight=np.ones((4, 1, 3, 2), np.int16)), "must be int8"),
    "conv weight rank": (lambda n: changed(n, "conv", **conv_weight(4, 6)), "4 dimensions"),
    "conv channels": (lambda n: changed(n, "conv", **conv_weight(4, 2, 3, 2)), "takes 4 channels"),
    "conv groups": (lambda n: changed(n, "conv", groups=3), "must divide"),
    "conv stride": (lambda n: changed(n, "conv", stride=(0, 1)), "at least 1"),
    "conv padding": (lambda n: changed(n, "conv", padding=(3, 0)), "smaller than its kernel"),
    "conv kernel": (lambda n: changed(n, "conv", **conv_weight(4, 1, 9, 2)), "larger than its input"),
    "conv raw sums": (lambda n: changed(n, "conv", requantization=None), "only an exit may|only a linear"),
    "bias type": (lambda n: changed(n, "conv", bias=np.zeros(4)), "int32"),
    "bias length": (lambda n: changed(n, "fc1", bias=np.zeros(4, np.int32)), r"int32 \(3,\)"),
    "bias overflow": (lambda n: changed(n, "fc1", bias=np.full(3, 2**31 - 1000, np.int32)), "more than 32 bits"),
    "linear width": (lambda n: changed(n, "fc1", weight=np.ones((3, 15), np.int8)), "takes 15 values"),
    "linear rank": (lambda n: changed(n, "fc1", weight=np.ones((3, 16, 1), np.int8)), "2 dimensions"),
    "linear on image": (lambda n: changed(n, "fc1", inputs=("avg",)), "takes 16 values"),
    "flatten twice": (lambda n: changed(n, "flat", inputs=("hidden",)), "does not come before"),
    "pool window": (lambda n: changed(n, "max", kernel=(4, 4)), "larger than its input"),
    "pool pair": (lambda n: changed(n, "max", kernel=2), "two integers"),
    "multiplier negative": (
        lambda n: changed(n, "conv", requantization=Requantization(np.array([-1], np.int32), np.array([1], np.int8))),
        "not be negative",
    ),
    "multiplier length": (lambda n: changed(n, "conv", requantization=requantization(3)), r"int32 \(4,\)"),
    "shift range": (
        lambda n: changed(n, "avg", requantization=Requantization(np.array([1], np.int32), np.array([63], np.int8))),
        r"1\.\.62",
    ),
    "zero range": (lambda n: changed(n, "avg", requantization=replace(requantization(), zero=-129)), r"-128\.\.127, not -129"),
    "clamp order": (lambda n: changed(n, "avg", requantization=replace(requantization(), low=5, high=5)), "inside -128..127"),
    "clamp range": (lambda n: changed(n, "avg", requantization=replace(requantization(), high=128)), "inside -128..127"),
    "exit on codes": (lambda n: changed(without(n, "fc2"), "exit2", inputs=("hidden",)), "without requantisation"),
    "exit scale": (lambda n: changed(n, "exit1", scale=np.ones(3, np.float32)), "float64"),
    "exit scale zero": (lambda n: changed(n, "exit1", scale=np.zeros(3)), "positive and finite"),
    "sums read": (lambda n: changed(n, "hidden", inputs=("fc1",), weight=np.ones((5, 3), np.int8)), "only an exit may"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_networks_are_refused(network, what):
    change, message = WRONG[what]
    assert validate(network) is network
    with pytest.raises(InvalidNetworkError, match=message) as caught:
        validate(change(network))
    assert "\n" not in str(caught.value)


WRONG_RESIDUAL = {
    "one input": (lambda n: changed(n, "sum", inputs=("stem",)), "exactly two inputs, not 1"),
    "three inputs": (lambda n: changed(n, "sum", inputs=("stem", "stem", "stem")), "exactly two inputs, not 3"),
    "second unknown": (lambda n: changed(n, "sum", inputs=("stem", "pool")), "'pool', which does not come before"),
    "other shape": (lambda n: changed(n, "sum", inputs=("stem", "pad")), r"the same shape, not \(6, 6, 6\) and \(6, 8, 8\)"),
    "sums added": (lambda n: changed(n, "sum", inputs=("stem", "fc1")), "the same shape"),
    "multiplier shape": (lambda n: changed(n, "sum", multiplier=np.ones(3, np.int32)), r"must be int32 \(2,\)"),
    "multiplier type": (lambda n: changed(n, "sum", multiplier=np.ones(2, np.int64)), r"must be int32 \(2,\)"),
    "multiplier sign": (lambda n: changed(n, "sum", multiplier=np.array([1, -1], np.int32)), "not be negative"),
    "shift": (lambda n: changed(n, "sum", shift=63), r"1\.\.62"),
    "shift type": (lambda n: changed(n, "sum", shift=np.int8(3)), r"1\.\.62"),
    "bias type": (lambda n: changed(n, "sum", bias=0.5), "must be an integer, not 0.5"),
    "bias size": (lambda n: changed(n, "sum", bias=2**63 - 2**38), "more than 64 bits"),
    "clamp": (lambda n: changed(n, "sum", low=127), "inside -128..127"),
    "padding": (lambda n: changed(n, "pad", padding=(1, 1)), "four integers"),
    "padding sign": (lambda n: changed(n, "pad", padding=(1, 1, -1, 0)), "four integers"),
    "padding value": (lambda n: changed(n, "pad", value=128), r"-128\.\.127"),
    "pool bias": (lambda n: changed(n, "pool", bias=0.5), "must be an integer"),
    "pool bias size": (lambda n: changed(n, "pool", bias=2**31 - 700), "more than 32 bits"),
    "pad a vector": (lambda n: changed(n, "pad", inputs=("flat1",)), "takes \\(channels, height, width\\)"),
}


@pytest.mark.parametrize("what", WRONG_RESIDUAL)
def test_wrong_residual_networks_are_refused(residual_network, what):
    change, message = WRONG_RESIDUAL[what]
    with pytest.raises(InvalidNetworkError, match=message) as caught:
        validate(change(residual_network))
    assert "\n" not in str(caught.value)


def test_an_addition_of_integer_sums_is_refused(residual_network):
    twice = Add(name="twice", inputs=("fc1", "fc1"), multiplier=np.ones(2, np.int32), shift=1)
    with pytest.raises(InvalidNetworkError, match="'twice' reads the integer sums of 'fc1', which only an exit may do"):
        validate(replace(residual_network, layers=(*residual_network.layers, twice)))


KVP = multipliers.get("KVP").mask.hex()


def with_corrections(network, corrections):
    return replace(network, corrections=corrections)


def test_corrections_survive_the_file_and_serve_their_function(network, tmp_path):
    layer = network.weighted[0]
    correction = np.arange(len(layer.bias), dtype=np.int32) - 1
    corrected = with_corrections(network, {KVP: {layer.name: correction}})
    save(corrected, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    assert to_bytes(again) == to_bytes(corrected)
    assert network_digest(again) != network_digest(network)
    adapted = again.adapted(multipliers.get("KVP"))
    assert np.array_equal(adapted[layer.name].bias, layer.bias + correction)
    assert not adapted.corrections
    for other in ("KV6", "adapt/mul8s_1L2H_adapt_table"):
        assert network_digest(again.adapted(multipliers.get(other))) == network_digest(network)
    assert network.adapted(multipliers.get("KVP")) is network


@pytest.mark.parametrize(
    ("corrections", "message"),
    [
        (lambda layer: {"KVP": {layer.name: np.zeros_like(layer.bias)}}, "16 hexadecimal digits .*, not to 'KVP'"),
        (lambda layer: {KVP: {"nowhere": np.zeros_like(layer.bias)}}, "'nowhere', which is no layer with weights"),
        (lambda layer: {KVP: {layer.name: np.zeros(1, np.int32)}}, "must be int32"),
        (lambda layer: {KVP: {layer.name: layer.bias.astype(np.int64)}}, "must be int32"),
        (lambda layer: {KVP: {layer.name: np.full_like(layer.bias, 2**31 - 1)}}, "could leave 32 bits"),
    ],
)
def test_wrong_corrections_are_refused(network, corrections, message):
    with pytest.raises(InvalidNetworkError, match=message):
        to_bytes(with_corrections(network, corrections(network.weighted[0])))
