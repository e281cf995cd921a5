"""The executor: lazy, each layer once, narrowed batches, cycles per image."""

import numpy as np
import pytest
import torch

from epsilon import integer
from epsilon.accelerator import Counters
from epsilon.executor import Execution, encode
from epsilon.network import AvgPool2d, Convolution, Exit, Flatten, Linear, MaxPool2d, QuantizedNetwork, Relu, Requantization
from epsilon.network_io import validate

CYCLES = {"conv1": 100, "fc1": 7, "conv2": 50, "fc2": 9}


def make_network() -> QuantizedNetwork:
    """Two exits; the second needs conv1 and conv2, not fc1."""
    rng = np.random.default_rng(11)

    def requantization(count: int, low: int = -128) -> Requantization:
        return Requantization(rng.integers(2**29, 2**30, count).astype(np.int32), np.full(count, 38, np.int8), low)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    def bias(count: int) -> np.ndarray:
        return rng.integers(-5000, 5000, count).astype(np.int32)

    layers = (
        Convolution(
            name="conv1",
            inputs=("input",),
            weight=weights(4, 2, 3, 3),
            bias=bias(4),
            requantization=requantization(4),
            padding=(1, 1),
        ),
        Relu(name="relu1", inputs=("conv1",)),
        AvgPool2d(name="pool1", inputs=("relu1",), kernel=(3, 3), stride=(3, 3), requantization=requantization(1)),
        Flatten(name="flat1", inputs=("pool1",)),
        Linear(name="fc1", inputs=("flat1",), weight=weights(3, 16), bias=bias(3)),
        Exit(name="exit1", inputs=("fc1",), scale=np.array([0.5, 0.25, 0.125])),
        MaxPool2d(name="pool2", inputs=("relu1",), kernel=(2, 2), stride=(2, 2)),
        Convolution(
            name="conv2",
            inputs=("pool2",),
            weight=weights(4, 2, 2, 2),
            bias=bias(4),
            requantization=requantization(4, 0),
            stride=(2, 2),
            groups=2,
        ),
        Flatten(name="flat2", inputs=("conv2",)),
        Linear(name="fc2", inputs=("flat2",), weight=weights(3, 16), bias=bias(3)),
        Exit(name="exit2", inputs=("fc2",), scale=np.array([0.001, 0.002, 0.003])),
    )
    table = np.stack([np.arange(256) - 128, np.arange(256) // 2]).astype(np.int8)
    return validate(QuantizedNetwork(name="two-exits", input_shape=(2, 8, 8), input_table=table, layers=layers, classes=3))


class ExactAccelerator:
    """Exact products; notes what it was asked to run."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self.network = network
        self.calls: list[tuple[str, int]] = []
        self._run = 1000

    def counters(self) -> Counters:
        return Counters(run=self._run)

    def run_layer(self, name: str, activations: torch.Tensor) -> torch.Tensor:
        self.calls.append((name, len(activations)))
        self._run += CYCLES[name] * len(activations)
        layer = self.network[name]
        weight, wide = torch.from_numpy(layer.weight).double(), activations.double()
        if isinstance(layer, Linear):
            return (wide @ weight.T).to(torch.int32)
        return torch.nn.functional.conv2d(wide, weight, None, layer.stride, layer.padding, 1, layer.groups).to(torch.int32)


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 256, (6, 2, 8, 8)).astype(np.uint8)


def reference(network, image):
    """Logits of both exits for one image, step by step."""
    accelerator = ExactAccelerator(network)

    def weighted(name, value):
        layer = network[name]
        sums = accelerator.run_layer(name, value)
        sums = sums + torch.from_numpy(layer.bias).reshape(1, -1, *[1] * (sums.dim() - 2))
        return sums if layer.requantization is None else integer.requantize(sums, layer.requantization)

    codes = torch.empty((1, 2, 8, 8), dtype=torch.int8)
    for channel in range(2):
        for row in range(8):
            for column in range(8):
                codes[0, channel, row, column] = int(network.input_table[channel][image[channel, row, column]])
    shared = weighted("conv1", codes).clamp(min=0)
    first = integer.avg_pool2d(shared, (3, 3), (3, 3), network["pool1"].requantization).reshape(1, -1)
    second = weighted("conv2", integer.max_pool2d(shared, (2, 2), (2, 2))).reshape(1, -1)
    return [
        weighted("fc1", first).double() * torch.from_numpy(network["exit1"].scale),
        weighted("fc2", second).double() * torch.from_numpy(network["exit2"].scale),
    ]


def test_logits_equal_the_step_by_step_run(network, images):
    execution = Execution(ExactAccelerator(network), encode(network, images))
    found = [execution.exit(0), execution.exit(1)]
    for number, image in enumerate(images):
        for logits, expected in zip(found, reference(network, image), strict=True):
            assert logits.dtype == torch.float64
            assert torch.equal(logits[number : number + 1], expected)
    # The images are told apart and the exits are not constant, so that the comparison means something.
    assert len({tuple(row.tolist()) for row in found[1]}) == len(images)


def test_layers_run_when_first_needed_and_once(network, images):
    accelerator = ExactAccelerator(network)
    execution = Execution(accelerator, encode(network, images))
    assert accelerator.calls == []
    first = execution.exit(0)
    assert accelerator.calls == [("conv1", 6), ("fc1", 6)]
    assert execution.cycles == 107
    assert torch.equal(execution.exit(0), first)
    execution.exit(-1)
    assert accelerator.calls == [("conv1", 6), ("fc1", 6), ("conv2", 6), ("fc2", 6)]
    assert execution.cycles == sum(CYCLES.values())


def test_a_late_exit_does_not_run_the_early_one(network, images):
    accelerator = ExactAccelerator(network)
    execution = Execution(accelerator, encode(network, images))
    execution.exit(1)
    assert [name for name, _ in accelerator.calls] == ["conv1", "conv2", "fc2"]
    execution.exit(0)
    assert [name for name, _ in accelerator.calls] == ["conv1", "conv2", "fc2", "fc1"]


def test_narrowed_batch_runs_on_the_rest_alone(network, images):
    whole = Execution(ExactAccelerator(network), encode(network, images))
    accelerator = ExactAccelerator(network)
    execution = Execution(accelerator, encode(network, images))
    early = execution.exit(0)
    keep = torch.tensor([False, True, True, False, False, True])
    execution.narrow(keep)
    assert execution.batch == 3
    assert torch.equal(execution.exit(0), early[keep])
    assert torch.equal(execution.exit(1), whole.exit(1)[keep])
    assert accelerator.calls[2:] == [("conv2", 3), ("fc2", 3)]
    assert execution.cycles == sum(CYCLES.values())
    execution.narrow(np.array([True, True, True]))
    assert execution.batch == 3


def test_empty_batch_asks_the_accelerator_for_nothing(network, images):
    accelerator = ExactAccelerator(network)
    execution = Execution(accelerator, encode(network, images))
    execution.exit(0)
    execution.narrow(torch.zeros(6, dtype=torch.bool))
    assert execution.exit(1).shape == (0, 3)
    assert len(accelerator.calls) == 2


def test_observer_sees_every_weighted_layer(network, images):
    seen = {}
    accelerator = ExactAccelerator(network)
    execution = Execution(accelerator, encode(network, images), lambda *what: seen.update({what[0]: what[1:]}))
    execution.exit(0)
    execution.exit(1)
    assert list(seen) == ["conv1", "fc1", "conv2", "fc2"]
    for name, (activations, accumulators) in seen.items():
        assert activations.dtype == torch.int8
        assert accumulators.dtype == torch.int32
        assert torch.equal(accumulators, ExactAccelerator(network).run_layer(name, activations))


def test_encode_refuses_wrong_images(network, images):
    with pytest.raises(ValueError, match=r"8-bit unsigned integers, not int64"):
        encode(network, images.astype(np.int64))
    for wrong in (images[0], images[:, :1], images[..., :7]):
        with pytest.raises(ValueError, match=r"\(batch, 2, 8, 8\)"):
            encode(network, wrong)
    assert torch.equal(encode(network, torch.from_numpy(images)), encode(network, images))
    assert encode(network, images[:0]).shape == (0, 2, 8, 8)


def test_execution_refuses_wrong_codes_and_masks(network, images):
    codes = encode(network, images)
    for wrong in (codes.int(), codes[:, :1], images):
        with pytest.raises(ValueError, match="Codes must be"):
            Execution(ExactAccelerator(network), wrong)
    execution = Execution(ExactAccelerator(network), codes)
    for wrong in (torch.ones(5, dtype=torch.bool), torch.ones(6)):
        with pytest.raises(ValueError, match="boolean each"):
            execution.narrow(wrong)
