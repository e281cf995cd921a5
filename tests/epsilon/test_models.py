"""The architectures: their names, sizes, exits and fault points, and that each of them has an integer form that agrees."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from epsilon import data, models
from epsilon.cli import app
from epsilon.fault_points import fault_points, resolve_layers
from epsilon.measurement import evaluate
from epsilon.models.blocks import Residual, named, scaled
from epsilon.models.exits import FRACTIONS, mac_profile, with_exits
from epsilon.models.zoo import ARCHITECTURES
from epsilon.network import Add, Convolution, Pad2d
from epsilon.network_io import load, save
from epsilon.quantize import quantize
from epsilon.validation import macs

#: Multiplications per image of the full-width networks for 32x32 images, exits left out, in millions.
PUBLISHED_MMACS = {"vgg16": 313.7, "wideresnet": 1072.1, "mobilenet": 46.3}


def small(name):
    """An untrained network whose BatchNorm has seen images, and random images for it."""
    model = models.build(name, seed=1)
    pixels = torch.randint(0, 256, (24, *model.input_shape), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(model.real(pixels / 255))
    return model.eval(), pixels.numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_width_has_the_published_cost(architecture):
    counts, shapes = mac_profile(ARCHITECTURES[architecture](1.0, (3, 32, 32)), (3, 32, 32))
    assert sum(counts) / 1e6 == pytest.approx(PUBLISHED_MMACS[architecture], abs=0.1)
    assert len(shapes[-1]) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dataset", ["cifar100", "imagenet", "mnist"])
def test_every_architecture_is_there_for_every_data_set(architecture, dataset):
    with torch.device("meta"):
        model = models.build(f"{architecture}-w0.25-{dataset}")
    classes = {"cifar100": 100, "imagenet": 1000, "mnist": 10}[dataset]
    assert model.classes == classes
    assert all(head[-1].out_features == classes for head in model.heads)


def test_exits_lie_where_the_cost_is_nearest_to_even_fractions():
    blocks = [named(**{f"conv{n}": nn.Conv2d(1, 1, 1)}) for n in range(12)] + [named(pool=nn.AvgPool2d(4), flatten=nn.Flatten())]
    model = with_exits(blocks, input_shape=(1, 4, 4), classes=3, fractions=(0.25, 0.5, 0.75))
    assert [[name for name, _ in stage.named_children()][-1] for stage in model.stages] == ["conv2", "conv5", "conv8", "flatten"]
    assert [len(model(torch.zeros(2, 1, 4, 4))), model(torch.zeros(2, 1, 4, 4))[0].shape] == [4, (2, 3)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exits_of_the_architectures_follow_their_own_profile(architecture):
    blocks = ARCHITECTURES[architecture](0.5, (3, 32, 32))
    counts, _ = mac_profile(blocks, (3, 32, 32))
    shares = np.cumsum(counts) / sum(counts)
    model = models.build(f"{architecture}-w0.5-cifar10")
    assert len(model.stages) == len(FRACTIONS) + 1
    ends = [[name for name, _ in stage.named_children()][-1] for stage in model.stages[:-1]]
    names = [[name for name, _ in block.named_children()][-1] for block in blocks]
    assert [names[int(np.abs(shares[:-1] - fraction).argmin())] for fraction in FRACTIONS] == ends


def test_channels_are_multiples_of_eight():
    assert [scaled(64, 0.5), scaled(16, 0.25), scaled(64, 0.3), scaled(512, 1.0)] == [32, 8, 16, 512]


@pytest.mark.parametrize(
    "name", ["vgg-cifar10", "vgg16-w0-cifar10", "vgg16-w1.2.3-cifar10", "vgg16-w9-cifar10", "vgg16", "vgg16-svhn"]
)
def test_init_wrong_name(name):
    with pytest.raises(ValueError, match="vgg16, wideresnet, mobilenet") as caught:
        models.build(name)
    assert repr(name) in str(caught.value)


def test_init_wrong_input_zero():
    with pytest.raises(ValueError, match=r"0\.\.254, not 255"):
        models.MultiExit([named()], [named(fc=nn.Linear(1, 2))], input_shape=(1, 1, 1), classes=2, input_zero=255)


@pytest.mark.parametrize("zero", [0, 128])
def test_pixels_have_the_codes_of_what_the_network_takes(zero):
    heads = [named(flatten=nn.Flatten(), fc=nn.Linear(4, 2))]
    model = models.MultiExit([named()], heads, input_shape=(1, 2, 2), classes=2, input_zero=zero)
    table = quantize(model, np.arange(256, dtype=np.uint8).reshape(-1, 1, 2, 2), name="table").input_table[0]
    expected = np.arange(256) - 128 if zero else np.rint(np.arange(256) * 127 / 255)
    assert table.tolist() == expected.tolist()
    assert float(model.real(torch.tensor(1.0, dtype=torch.float64))) == pytest.approx(1)


@pytest.mark.parametrize("name", ["vgg16-w0.05-mnist", "wideresnet-w0.05-cifar10", "mobilenet-w0.05-cifar100"])
def test_integer_form_agrees_and_survives_its_file(name, tmp_path):
    model, images = small(name)
    network = quantize(model, images, name=name)
    with torch.no_grad():
        expected = model(model.real(torch.from_numpy(images) / 255))
    for found, logits in zip(evaluate(network, images, "KV6"), expected, strict=True):
        assert np.corrcoef(found.ravel(), logits.numpy().ravel())[0, 1] > 0.98
    save(network, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    for one, other in zip(evaluate(again, images[:4], "KVP"), evaluate(network, images[:4], "KVP"), strict=True):
        assert np.array_equal(one, other)
    assert macs(network) > 0


def test_integer_form_has_what_the_architecture_has():
    networks = {
        name: quantize(*small(name), name=name)
        for name in ("vgg16-w0.05-mnist", "wideresnet-w0.05-cifar10", "mobilenet-w0.05-cifar10")
    }
    border = networks["vgg16-w0.05-mnist"].layers[0]
    assert isinstance(border, Pad2d)
    assert border.padding == (2, 2, 2, 2)
    additions = [layer for layer in networks["wideresnet-w0.05-cifar10"] if isinstance(layer, Add)]
    assert len(additions) == 15
    assert all(layer.low == 0 for layer in additions)
    convolutions = [layer for layer in networks["mobilenet-w0.05-cifar10"].weighted if isinstance(layer, Convolution)]
    depthwise = [layer for layer in convolutions if layer.groups > 1]
    assert len(depthwise) == 13
    assert all(layer.groups == layer.weight.shape[0] for layer in depthwise)


def test_fault_points_are_spread_from_the_first_convolution_to_the_classifier():
    model, images = small("vgg16-w0.05-mnist")
    network = quantize(model, images, name="vgg")
    last = [[name for name, module in stage.named_children() if isinstance(module, nn.Conv2d)][-1:] for stage in model.stages]
    # Of five internal exits the second and the fourth lie at one and two thirds.
    assert fault_points(network) == {"FP1": "exit6_fc", "FP2": last[3][0], "FP3": last[1][0], "FP4": "conv1_1"}
    assert resolve_layers(network, ["fp4", "conv3_1", "FP1"]) == ["conv1_1", "conv3_1", "exit6_fc"]
    assert fault_points(load("digits")) == {"FP1": "exit3_fc", "FP2": "conv2", "FP3": "conv1", "FP4": "conv1"}
    with pytest.raises(ValueError, match="FP1, FP2, FP3, FP4, not 'FP5'"):
        resolve_layers(network, ["FP5"])


def test_residual_adds_its_branches():
    block = Residual(named(conv=nn.Conv2d(2, 2, 1)), nn.Sequential())
    value = torch.randn(3, 2, 4, 4)
    assert torch.equal(block(value), block.main(value) + value)
    assert math.prod(block(value).shape) == value.numel()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_form_for_224x224_runs_on_the_sample_of_imagenet(architecture, tmp_path, real_set):
    real_set("imagenet-sample")
    name = f"{architecture}-w0.05-imagenet"
    model = models.build(name).eval()
    images = data.load("imagenet-sample", "test").first(2).images
    network = replace(quantize(model, images, name=name), metadata={"dataset": "imagenet"})
    path = tmp_path / "network.safetensors"
    save(network, path)
    arguments = ["run", "--network", path, "--dataset", "imagenet-sample", "--images", 2, "--repair", "none", "--gamma", 0.5]
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(tmp_path / "result.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["images"] == 2
    last = evaluate(network, images, "KVP")[-1]
    assert last.shape == (2, 1000)
    assert found["predictions"] == [int(row.argmax()) for row in last]
