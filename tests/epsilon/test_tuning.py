"""Fine-tuning: its forward pass is the integer network's, its gradient the exact product's, and it helps."""

import numpy as np
import pytest
import torch

from epsilon import data, models, multipliers
from epsilon.network_io import load, to_bytes
from epsilon.quantize import quantize
from epsilon.train import evaluate
from epsilon.tuning import TrainableNetwork, _Product


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
        # float32 may round a tie of the requantisation the other way, nothing else.
        close = np.isclose(logits.double().numpy(), expected, rtol=1e-5, atol=1e-6)
        assert close.mean() > 0.99


def test_freezing_an_untrained_network_changes_nothing(network):
    assert to_bytes(TrainableNetwork(network).freeze()) == to_bytes(network)


def test_gradient_is_that_of_the_exact_product(network):
    layer = network["conv2"]
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 128, (2, 16, 4, 4), generator=generator).float().requires_grad_()
    weight = torch.from_numpy(layer.weight.astype(np.float32)).requires_grad_()
    sums = _Product.apply(codes, weight, layer, multipliers.get("L2N"))
    pull = torch.randn(sums.shape, generator=generator)
    found = torch.autograd.grad(sums, [codes, weight], pull)
    exact = torch.nn.functional.conv2d(codes, weight, padding=1)
    assert not torch.equal(sums, exact)
    expected = torch.autograd.grad(exact, [codes, weight], pull)
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
