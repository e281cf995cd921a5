"""The executor: lazy, each layer once, narrowed batches, cycles per image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsilon import integer
from epsilon.accelerator import Counters
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
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


def plain_residual(network, image):
    """Logits of both exits of the residual network for one image, in NumPy integers."""

    def convolved(name, codes, padding=0):
        layer = network[name]
        padded = np.pad(codes, ((0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        sums = np.einsum("nckl,chwkl->nhw", layer.weight.astype(np.int64), windows) + layer.bias[:, None, None]
        scaling = layer.requantization
        multiplier, shift = int(scaling.multiplier[0]), int(scaling.shift[0])
        return np.clip(((sums * multiplier + (1 << (shift - 1))) >> shift) + scaling.zero, scaling.low, scaling.high)

    def logits(number, codes):
        return network[f"exit{number}"].scale * (network[f"fc{number}"].weight.astype(np.int64) @ codes.reshape(-1))

    stem = convolved("stem", image.astype(np.int64) - 128, padding=1)
    padded = np.full((6, 8, 8), -7)
    padded[:, :6, 2:] = stem
    wide = convolved("branch", padded) * 1_500_000_000 + stem * 1_000_000_000 - (5 << 31) + (1 << 30)
    total = np.clip(wide >> 31, -100, 127)
    sums = total.reshape(6, 2, 3, 3, 2).sum(axis=(2, 4)) + 35
    pooled = np.clip((sums * (2**30 // 3) + (1 << 30)) >> 31, -128, 127)
    return logits(1, stem), logits(2, pooled)


def test_residual_network_is_its_plain_arithmetic(residual_network, residual_images):
    accelerator = Emulator(ArrayConfig(rows=4, cols=3, multiplier="KV6"))
    accelerator.load(residual_network)
    execution = Execution(accelerator, encode(residual_network, residual_images))
    found = execution.exit(0), execution.exit(1)
    for number, image in enumerate(residual_images):
        for logits, expected in zip(found, plain_residual(residual_network, image), strict=True):
            assert logits[number].tolist() == expected.tolist()
    assert len({tuple(row.tolist()) for row in found[1]}) == len(residual_images)


def test_a_value_with_two_readers_is_kept_until_both_have_run_and_narrowed(residual_network, residual_images):
    accelerator = Emulator(ArrayConfig(rows=4, cols=3, multiplier="KV6"))
    accelerator.load(residual_network)
    codes = encode(residual_network, residual_images)
    whole = Execution(accelerator, codes).exit(1)
    execution = Execution(accelerator, codes)
    execution.exit(0)
    keep = torch.arange(40) % 3 == 0
    execution.narrow(keep)
    assert torch.equal(execution.exit(1), whole[keep])
    assert set(execution._values) == {"exit1", "exit2"}
    execution = Execution(accelerator, codes)
    execution.exit(0)
    execution.narrow(torch.zeros(40, dtype=torch.bool))
    assert execution.exit(1).shape == (0, 4)


def test_a_value_may_be_added_to_itself(residual_network, residual_images):
    twice = replace(residual_network["sum"], inputs=("stem", "stem"))
    kept = [twice if layer.name == "sum" else layer for layer in residual_network if layer.name not in ("pad", "branch")]
    network = validate(replace(residual_network, layers=tuple(kept)))
    accelerator = Emulator(ArrayConfig(rows=4, cols=3, multiplier="KV6"))
    accelerator.load(network)
    execution = Execution(accelerator, encode(network, residual_images))
    assert len(execution.exit(1).unique(dim=0)) == len(residual_images)
    assert set(execution._values) == {"exit2", "stem"}
