"""Quantisation of random torch networks, compared with their floating-point results under the exact multiplier."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from epsilon import data, models
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.measurement import evaluate
from epsilon.models import MultiExit
from epsilon.network import AvgPool2d, Convolution, Exit, Flatten, Linear, MaxPool2d, Relu
from epsilon.quantize import QuantizationError, quantize, requantization_of

CLASSES = 5
SHAPE = (3, 9, 10)


def sequence(**modules: nn.Module) -> nn.Sequential:
    found = nn.Sequential()
    for name, module in modules.items():
        found.add_module(name, module)
    return found


def make_model(seed: int) -> MultiExit:
    """Two exits; grouped and strided convolutions, BatchNorm with and without its own gain, both poolings, a late ReLU."""
    torch.manual_seed(seed)
    stages = [
        sequence(conv1=nn.Conv2d(3, 6, 3, padding=1, groups=3), bn1=nn.BatchNorm2d(6), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)),
        sequence(
            conv2=nn.Conv2d(6, 8, (3, 2), stride=(1, 2), padding=(1, 0), groups=2, bias=False),
            bn2=nn.BatchNorm2d(8, affine=False),
            pool2=nn.AvgPool2d((2, 1), stride=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            drop=nn.Dropout(0.5),
            fc1=nn.Linear(48, 16),
            bn3=nn.BatchNorm1d(16),
            relu3=nn.ReLU(),
        ),
    ]
    heads = [
        sequence(exit1_pool=nn.AvgPool2d(2), exit1_flatten=nn.Flatten(), exit1_fc=nn.Linear(24, CLASSES)),
        sequence(exit2_fc=nn.Linear(16, CLASSES, bias=False)),
    ]
    model = MultiExit(stages, heads, input_shape=SHAPE, classes=CLASSES)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.2, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def images_for(seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_agree_with_float(seed):
    with torch.random.fork_rng():
        model = make_model(seed)
    network = quantize(model, images_for(seed), name="random")
    images = images_for(seed + 1000)
    with torch.no_grad():
        expected = [logits.numpy() for logits in model.eval()(torch.from_numpy(images).float() / 255)]
    for logits, wanted in zip(evaluate(network, images, "KV6"), expected, strict=True):
        # 7 bits of activation and 8 of weight through at most four layers: a few percent of the logits' spread.
        error = np.abs(logits - wanted)
        assert error.mean() < 0.04 * wanted.std()
        assert error.max() < 0.25 * wanted.std()
        assert error.max() > 0


def test_structure_and_fusion():
    with torch.random.fork_rng():
        network = quantize(make_model(0), images_for(0), name="random")
    kinds = [(layer.name, type(layer)) for layer in network]
    assert kinds == [
        ("conv1", Convolution),
        ("pool1", MaxPool2d),
        ("exit1_pool", AvgPool2d),
        ("exit1_flatten", Flatten),
        ("exit1_fc", Linear),
        ("exit1", Exit),
        ("conv2", Convolution),
        ("pool2", AvgPool2d),
        ("relu2", Relu),
        ("flatten", Flatten),
        ("fc1", Linear),
        ("exit2_fc", Linear),
        ("exit2", Exit),
    ]
    assert network["conv2"].inputs == ("pool1",)
    assert (network["conv2"].stride, network["conv2"].padding, network["conv2"].groups) == ((1, 2), (1, 0), 2)
    # A ReLU directly behind a layer is its lower clamp; behind a pooling it stays a layer.
    assert network["conv1"].requantization.low == 0
    assert network["conv2"].requantization.low == -128
    assert network["exit1_fc"].requantization is None
    # Every output channel uses the whole range of weight codes.
    for layer in network.weighted:
        assert (np.abs(layer.matrix.astype(int)).max(axis=1) == 127).all()
    assert network.input_table[0, 0] == 0
    assert network.input_table[0, 255] == 127


def test_one_layer_is_within_half_a_code():
    """Logits of a single linear layer differ by no more than the rounding of pixels, weights and bias allows."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = nn.Linear(64, 3)
    model = MultiExit([sequence(flatten=nn.Flatten())], [sequence(fc=layer)], input_shape=(1, 8, 8), classes=3)
    images = np.random.default_rng(5).integers(0, 256, (50, 1, 8, 8)).astype(np.uint8)
    network = quantize(model, images, name="one")
    (logits,) = evaluate(network, images, "KV6")
    pixels = np.rint(images.reshape(50, 64) * (127 / 255)) / 127
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    unit = np.abs(weight).max(axis=1) / 127
    bound = 0.5 * unit * (pixels.sum(axis=1)[:, None] + 1 / 127)
    error = np.abs(logits - (pixels @ weight.T + bias))
    assert (error <= bound * (1 + 1e-9)).all()
    assert error.max() > 0.01 * bound.max()


@given(st.floats(2.0**-60, 2.0**29 * 0.999))
def test_requantization_ratio_keeps_31_bits(ratio):
    requantization = requantization_of(ratio, 0)
    multiplier, shift = int(requantization.multiplier[0]), int(requantization.shift[0])
    assert 1 <= shift <= 62
    error = abs(multiplier / 2**shift - ratio)
    assert error <= max(ratio * 2**-31, 2.0**-63)


def test_requantization_ratio_refuses_what_does_not_fit():
    for ratio in (0.0, -1.0, 2.0**29, float("nan"), float("inf")):
        with pytest.raises(QuantizationError, match="ratio"):
            requantization_of(np.array([1.0, ratio]), 0)
    just_below = requantization_of(1 - 2**-40, 0)
    assert (int(just_below.multiplier[0]), int(just_below.shift[0])) == (2**30, 30)


def test_dead_channels_and_large_biases_stay_in_range():
    with torch.random.fork_rng():
        model = make_model(1)
    with torch.no_grad():
        model.stages[0].conv1.weight[2] = 0
        model.stages[0].conv1.weight[3] = 1e-12
        model.stages[0].bn1.bias[3] = 4.0
        model.heads[1].exit2_fc.weight[:] = 0
    network = quantize(model, images_for(1), name="dead")
    assert not network["conv1"].matrix[2].any()
    assert np.abs(network["conv1"].bias.astype(np.int64)).max() <= 2**29
    assert (evaluate(network, images_for(2, 3), "KV6")[1] == 0).all()


def test_model_is_left_as_it_is():
    with torch.random.fork_rng():
        model = make_model(2)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, images_for(2), name="random")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def head(**extra):
    return sequence(exit_flatten=nn.Flatten(), exit_fc=nn.Linear(8, CLASSES), **extra)


def model_of(stage: nn.Sequential, exit_head: nn.Sequential | None = None) -> MultiExit:
    return MultiExit([stage], [exit_head or head()], input_shape=(1, 2, 4), classes=CLASSES)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: model_of(sequence(act=nn.Tanh())), "'act' is a Tanh"),
        (lambda: model_of(sequence(pool=nn.MaxPool2d(1), bn=nn.BatchNorm2d(1))), "'bn' must directly follow"),
        (lambda: model_of(sequence(bn=nn.BatchNorm2d(1))), "'bn' must directly follow"),
        (lambda: model_of(sequence(conv=nn.Conv2d(1, 1, 1, dilation=2))), "'conv' must not be dilated"),
        (lambda: model_of(sequence(conv=nn.Conv2d(1, 1, 3, padding="same"))), "'conv' must be padded with zeros"),
        (
            lambda: model_of(sequence(conv=nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))),
            "'conv' must be padded with zeros",
        ),
        (lambda: model_of(sequence(pool=nn.MaxPool2d(3, 1, padding=1))), "'pool' must have no padding"),
        (lambda: model_of(sequence(pool=nn.AvgPool2d(1, ceil_mode=True))), "'pool' must have no padding"),
        (lambda: model_of(sequence(flat=nn.Flatten(2, -1))), "'flat' must flatten everything"),
        (lambda: model_of(sequence(), head(last=nn.ReLU())), "must end with a linear layer"),
        (lambda: model_of(sequence(), head(last=nn.Sigmoid())), "must end with a linear layer"),
        (lambda: model_of(sequence(exit_fc=nn.ReLU())), "'exit_fc' is used twice"),
    ],
)
def test_what_has_no_integer_form_is_refused(model, message):
    images = np.zeros((2, 1, 2, 4), np.uint8)
    with pytest.raises(QuantizationError, match=message) as caught:
        quantize(model(), images, name="refused")
    assert "\n" not in str(caught.value)


def test_wrong_calibration_is_refused():
    model = model_of(sequence())
    for images in (np.zeros((2, 1, 2, 4)), np.zeros((0, 1, 2, 4), np.uint8), np.zeros((2, 1, 4, 2), np.uint8)):
        with pytest.raises(QuantizationError, match="Calibration images must be uint8"):
            quantize(model, images, name="refused")


def test_build_is_reproducible_and_known_by_name():
    first, second, other = (models.build("digits", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    with pytest.raises(ValueError, match="digits, mnist"):
        models.build("lenet")
    with pytest.raises(ValueError, match="one head per stage"):
        MultiExit([sequence()], [], input_shape=(1, 2, 4), classes=2)


@pytest.mark.parametrize(("name", "exits"), [("digits", 3), ("mnist", 4)])
def test_zoo_has_its_exits(name, exits):
    model = models.build(name).eval()
    logits = model(torch.zeros(2, *model.input_shape))
    assert [tuple(exit_logits.shape) for exit_logits in logits] == [(2, 10)] * exits


def test_with_a_step_weights_are_multiples_and_ranges_serve_cut_codes():
    model = models.build("digits", 3).eval()
    images = data.load("digits", "train").images[:100]
    whole, coarse = (quantize(model, images, name="digits", step=step) for step in (1, 8))
    for layer, other in zip(coarse.weighted, whole.weighted, strict=True):
        assert not (layer.weight % 8).any()
        assert (np.abs(layer.matrix).max(axis=1) == 120).all()
        assert (np.abs(other.matrix).max(axis=1) == 127).all()
    # Of codes that lose their three lower bits, more is left: they are larger.
    means = {}
    for network in (whole, coarse):
        accelerator = Emulator(ArrayConfig(multiplier="KV6"))
        accelerator.load(network)
        seen = {}
        Execution(accelerator, encode(network, images), lambda name, codes, _, seen=seen: seen.update({name: codes})).exit(-1)
        means[network] = {name: float(codes.float().abs().mean()) for name, codes in seen.items()}
    assert all(means[coarse][name] > means[whole][name] for name in ("conv2", "fc1"))


@pytest.mark.parametrize("step", [0, 3, 64, "8"])
def test_init_wrong_step(step):
    with pytest.raises(QuantizationError, match="must be one of 1, 2, 4, 8, 16, 32"):
        quantize(models.build("digits"), data.load("digits", "train").images[:4], name="digits", step=step)
