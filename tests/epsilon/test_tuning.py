"""Fine-tuning: its forward pass is the integer network's, its gradient the exact product's, and it helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsilon import data, models, multipliers
from epsilon.executor import encode
from epsilon.measurement import evaluate
from epsilon.network_io import load, to_bytes
from epsilon.quantize import quantize
from epsilon.tuning import TrainableNetwork, _added, _Product


@pytest.fixture(scope="module")
def network():
    return quantize(models.build("digits", 3), data.load("digits", "train").images[:200], name="untrained")


@pytest.mark.parametrize("name", ["KV6", "KVP", "KVA", "L2N", "adapt/mul8s_1L2H_adapt_table"])
def test_forward_is_the_integer_network(network, name):
    images = data.load("digits", "validation").images[:50]
    multiplier = multipliers.get(name)
    codes = torch.from_numpy(network.input_table.astype(np.float32)[0][images])
    with torch.no_grad():
        found = TrainableNetwork(network)(codes, multiplier)
    for logits, expected in zip(found, evaluate(network, images, multiplier), strict=True):
        assert np.allclose(logits.double().numpy(), expected, rtol=1e-6, atol=0)


def test_forward_of_a_residual_network_is_the_integer_network(residual_network, residual_images):
    multiplier = multipliers.get("L2N")
    codes = encode(residual_network, residual_images).float()
    trainable = TrainableNetwork(residual_network)
    found = trainable(codes, multiplier)
    for logits, expected in zip(found, evaluate(residual_network, residual_images, multiplier), strict=True):
        assert np.allclose(logits.detach().double().numpy(), expected, rtol=1e-6, atol=0)
    found[1].sum().backward()
    assert all(parameter.grad is not None for name, parameter in trainable.named_parameters() if "fc1" not in name)
    assert to_bytes(trainable.freeze()) == to_bytes(residual_network)


def test_addition_is_exact_on_every_pair_of_codes_and_passes_its_gradient(residual_network):
    layer = replace(residual_network["sum"], multiplier=np.array([2**29, 3 * 2**28], np.int32), shift=30, bias=2**28, low=0)
    codes = torch.arange(-128, 128)
    first, second = (grid.flatten().float().requires_grad_() for grid in torch.meshgrid(codes, codes, indexing="ij"))
    found = _added(first, second, layer)
    wide = (first.detach().long() * 2**29 + second.detach().long() * 3 * 2**28 + 2**28 + 2**29) >> 30
    assert torch.equal(found.detach().long(), wide.clamp(0, 127))
    found.sum().backward()
    inside = (wide > 0) & (wide < 127)
    assert first.grad[inside].unique().tolist() == [0.5]
    assert second.grad[inside].unique().tolist() == [0.75]
    assert not first.grad[wide < 0].any()


def test_freezing_an_untrained_network_changes_nothing(network):
    assert to_bytes(TrainableNetwork(network).freeze()) == to_bytes(network)


def test_gradient_is_that_of_the_exact_product(network):
    layer = network["conv2"]
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 128, (2, 16, 4, 4), generator=generator).float().requires_grad_()
    weight = torch.from_numpy(layer.weight.astype(np.float32)).requires_grad_()
    bias = torch.randn(len(weight), generator=generator).requires_grad_()
    sums = _Product.apply(codes, weight, bias, layer, multipliers.get("L2N"))
    pull = torch.randn(sums.shape, generator=generator)
    found = torch.autograd.grad(sums, [codes, weight, bias], pull)
    exact = torch.nn.functional.conv2d(codes, weight, bias, padding=1)
    assert not torch.equal(sums, exact)
    expected = torch.autograd.grad(exact, [codes, weight, bias], pull)
    assert all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))


def test_tuning_teaches_a_network_a_multiplier_that_it_does_not_stand():
    split = data.load("digits", "train")
    images, labels = split.images[:200], split.labels[:200]
    multiplier = multipliers.get("L12")
    shipped = load("digits")
    codes = torch.from_numpy(shipped.input_table.astype(np.float32)[0][images])
    trainable = TrainableNetwork(shipped)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=2.0, eps=1e-12)
    for _ in range(40):
        loss = models.joint_loss(trainable(codes, multiplier), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tuned = trainable.freeze()
    before, after = (float((evaluate(net, images, multiplier)[-1].argmax(axis=1) == labels).mean()) for net in (shipped, tuned))
    assert before < 0.5
    assert after > before + 0.3
    assert (tuned["conv1"].weight != shipped["conv1"].weight).any()
    assert (tuned["conv1"].bias != shipped["conv1"].bias).any()


def test_with_a_step_the_trained_weights_are_its_multiples():
    split = data.load("digits", "train")
    coarse = quantize(models.build("digits", 3), split.images[:200], name="untrained", step=8)
    trainable = TrainableNetwork(coarse, 8)
    assert to_bytes(trainable.freeze()) == to_bytes(coarse)
    codes = torch.from_numpy(coarse.input_table.astype(np.float32)[0][split.images[:50]])
    optimizer = torch.optim.Adam(trainable.parameters(), lr=3.0)
    for _ in range(3):
        loss = models.joint_loss(trainable(codes, multipliers.get("L2N")), torch.from_numpy(split.labels[:50]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = trainable.freeze()
    assert all(not (layer.weight % 8).any() for layer in trained.weighted)
    assert any((layer.weight != before.weight).any() for layer, before in zip(trained.weighted, coarse.weighted, strict=True))
    with torch.no_grad():
        found = trainable(codes, multipliers.get("KVP"))
    for logits, expected in zip(found, evaluate(trained, split.images[:50], "KVP"), strict=True):
        assert np.allclose(logits.double().numpy(), expected, rtol=1e-6, atol=1e-9)


def test_corrections_are_biases_of_one_multiplier(network):
    split = data.load("digits", "train")
    chosen = [multipliers.get(name) for name in ("KVP", "L2N")]
    trainable = TrainableNetwork(network, 1, chosen)
    codes = torch.from_numpy(network.input_table.astype(np.float32)[0][split.images[:50]])
    optimizer = torch.optim.Adam(trainable.parameters(), lr=0.5)
    for multiplier in (*chosen, multipliers.get("KV6")):
        loss = models.joint_loss(trainable(codes, multiplier), torch.from_numpy(split.labels[:50]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = trainable.freeze()
    assert set(trained.corrections) == {multiplier.mask.hex() for multiplier in chosen}
    assert all(set(found) == {layer.name for layer in network.weighted} for found in trained.corrections.values())
    assert any(correction.any() for correction in trained.corrections[chosen[0].mask.hex()].values())
    again = TrainableNetwork(network, 1, chosen)
    again.load_state_dict(trainable.state_dict())
    assert to_bytes(again.freeze()) == to_bytes(trained)
    # L2H of the older release is the function of L2J, which has no corrections here; KV6 has none either.
    for name in ("KVP", "L2N", "KV6", "v1/mul8s_1L2H"):
        with torch.no_grad():
            found = trainable(codes, multipliers.get(name))
        for logits, expected in zip(found, evaluate(trained, split.images[:50], name), strict=True):
            assert np.allclose(logits.double().numpy(), expected, rtol=1e-6, atol=1e-9)
