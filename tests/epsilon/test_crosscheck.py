"""The lockstep comparison: equal accelerators are equal, a seeded difference is found and located."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from epsilon.accelerator import Counters
from epsilon.cli import app
from epsilon.config import ArrayConfig
from epsilon.crosscheck import Difference, Lockstep, crosscheck
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.faults import FaultMap, Registers
from epsilon.network import Convolution, Exit, Flatten, Linear, QuantizedNetwork, Requantization
from epsilon.network_io import validate
from epsilon.repair import get_repair
from sim.rtl import RtlAccelerator

CONFIG = ArrayConfig(rows=4, cols=3, multiplier="KV6")


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    """Two layers: a convolution of 6 channels, a classifier of 4 classes."""
    rng = np.random.default_rng(5)
    requantization = Requantization(np.array([1], np.int32), np.array([9], np.int8), low=0)
    table = np.arange(-128, 128, dtype=np.int16).astype(np.int8)
    return validate(
        QuantizedNetwork(
            name="two-layers",
            input_shape=(2, 5, 5),
            input_table=np.tile(table, (2, 1)),
            layers=(
                Convolution(
                    name="conv",
                    inputs=("input",),
                    weight=rng.integers(-90, 91, (6, 2, 3, 3)).astype(np.int8),
                    bias=np.zeros(6, np.int32),
                    requantization=requantization,
                ),
                Flatten(name="flat", inputs=("conv",)),
                Linear(
                    name="fc",
                    inputs=("flat",),
                    weight=rng.integers(-90, 91, (4, 54)).astype(np.int8),
                    bias=np.zeros(4, np.int32),
                ),
                Exit(name="exit", inputs=("fc",), scale=np.full(4, 1e-4)),
            ),
            classes=4,
        )
    )


@pytest.fixture(scope="module")
def codes(network: QuantizedNetwork) -> torch.Tensor:
    return encode(network, np.random.default_rng(6).integers(0, 256, (7, 2, 5, 5)).astype(np.uint8))


def one_bit(shape: tuple[int, int], n: int, k: int, bit: int, layer: str) -> FaultMap:
    """Return the fault map of one bit stuck at 1 under weight [n, k] of a layer."""
    place = Registers(shape, np.array([n * shape[1] + k]), np.array([bit], np.uint8), np.array([1], np.uint8))
    return FaultMap(storage={layer: place})


def with_one_more_fault(kind: type, extra: FaultMap):
    """Return an accelerator whose registers have one stuck bit more than it is told of."""

    class OneMoreFault(kind):
        def set_faults(self, faults: FaultMap | None) -> None:
            super().set_faults(extra if faults is None else faults | extra)

    return OneMoreFault(CONFIG)


class OneMoreCycle(Emulator):
    """An emulator that counts a cycle too many from its first run on."""

    def counters(self) -> Counters:
        counted = super().counters()
        return replace(counted, run=counted.run + (counted.run > 0))


def run(reference, device, network, codes, repairs=("nearest", "invert")):
    maps = {
        "storage faults": FaultMap.sample(network, CONFIG, site="storage", rate=0.3, polarity="both", seed=1),
        "array faults": FaultMap.sample(network, CONFIG, site="array", rate=0.5, polarity="both", seed=2),
    }
    return crosscheck(reference, device, network, codes, fault_maps=maps, repairs=[get_repair(name) for name in repairs], batch=3)


@pytest.mark.parametrize("kind", [Emulator, RtlAccelerator])
def test_equal_accelerators_are_equal_and_everything_is_counted(kind, network, codes):
    report = run(Emulator(CONFIG), kind(CONFIG), network, codes)
    assert report.equal
    assert report.first is None
    assert [stage.name for stage in report.stages] == [
        "fault-free",
        "storage faults",
        "storage faults, nearest repair",
        "storage faults, invert repair",
        "array faults",
        "array faults, nearest repair",
        "array faults, invert repair",
    ]
    for stage in report.stages:
        assert stage.compared["accumulators"] == 7 * (6 * 9 + 4)
        # A repair reads the records and the weights once more.
        times = 2 if "repair" in stage.name else 1
        assert stage.compared["seen weights"] == times * (6 * 18 + 4 * 54)
        assert stage.compared["scan records"] == times * (6 + 4) * 7
        assert (stage.compared["stuck bits"] > 0) == ("repair" in stage.name)
    assert report.compared == sum(sum(stage.compared.values()) for stage in report.stages)


def test_a_residual_network_is_the_same_on_the_rtl(residual_network, residual_images):
    codes = encode(residual_network, residual_images[:4])
    report = run(Emulator(CONFIG), RtlAccelerator(CONFIG), residual_network, codes, repairs=("nearest",))
    assert report.equal, str(report.first)
    for stage in report.stages:
        assert stage.compared["accumulators"] == 4 * (2 * 6 * 36 + 2 * 4)


def test_progress_ends_with_the_whole_programme(network, codes):
    seen = []
    lines = {"storage": FaultMap.sample(network, CONFIG, rate=0.1, seed=1)}
    crosscheck(
        Emulator(CONFIG),
        Emulator(CONFIG),
        network,
        codes,
        fault_maps=lines,
        repairs=[],
        batch=4,
        progress=lambda *told: seen.append(told),
    )
    assert seen == [("fault-free", 4, 14), ("fault-free", 7, 14), ("storage", 11, 14), ("storage", 14, 14)]


@pytest.mark.parametrize("kind", [Emulator, RtlAccelerator])
def test_a_stuck_bit_that_only_the_device_has_is_located(kind, network, codes):
    inputs = {}
    accelerator = Emulator(CONFIG)
    accelerator.load(network)
    Execution(accelerator, codes, observer=lambda layer, activations, _: inputs.update({layer: activations})).exit(-1)
    weights, active = network["fc"].matrix.view(np.uint8), inputs["fc"].numpy()
    n = 2
    # A weight whose bit 6 is 0, and whose activation is 0 in the first image but not in all.
    k = next(k for k in range(54) if not weights[n, k] & 0x40 and active[0, k] == 0 and active[:, k].any())
    image = int(np.flatnonzero(active[:, k])[0])

    device = with_one_more_fault(kind, one_bit(weights.shape, n, k, 6, "fc"))
    report = crosscheck(Emulator(CONFIG), device, network, codes, fault_maps={}, repairs=[], batch=2)
    first = report.first
    assert (first.stage, first.layer, first.quantity) == ("fault-free", "fc", "accumulators")
    assert (first.image, first.channel, first.position) == (image, n, ())
    assert first.device - first.reference == 0x40 * int(active[image, k])
    (stage,) = report.stages
    assert stage.differing["seen weights"] == 1
    assert stage.differing["accumulators"] == np.count_nonzero(active[:, k])
    assert f"layer 'fc', accumulators, image {image}, output channel {n}: {first.reference} in the reference" in str(first)


def test_a_difference_in_a_convolution_has_its_place_in_the_image(network, codes):
    seen = network["conv"].matrix.view(np.uint8)
    n = 4
    k = next(k for k in range(18) if not seen[n, k] & 0x20)
    device = with_one_more_fault(Emulator, one_bit((6, 18), n, k, 5, "conv"))
    first = run(Emulator(CONFIG), device, network, codes).first
    assert (first.layer, first.channel, len(first.position)) == ("conv", n, 2)
    assert first.image == 0
    # The later layer is fed the same activations on both sides, so nothing follows from the first difference.
    assert run(Emulator(CONFIG), device, network, codes).stages[0].differing["seen weights"] == 1


def test_images_are_counted_over_batches(network, codes):
    still = codes.clone()
    still[:5] = 0
    seen = network["conv"].matrix.view(np.uint8)
    k = next(k for k in range(18) if not seen[0, k] & 0x20)
    device = with_one_more_fault(Emulator, one_bit((6, 18), 0, k, 5, "conv"))
    report = crosscheck(Emulator(CONFIG), device, network, still, fault_maps={}, repairs=[], batch=2)
    assert report.first.image == 5


def test_a_cycle_too_many_is_a_difference(network, codes):
    report = crosscheck(Emulator(CONFIG), OneMoreCycle(CONFIG), network, codes, fault_maps={}, repairs=[])
    first = report.first
    assert (first.layer, first.quantity, first.position) == ("conv", "cycles", ("run",))
    assert first.device == first.reference + 1


def test_lockstep_refuses_accelerators_of_different_function():
    with pytest.raises(ValueError, match="one configuration"):
        Lockstep(Emulator(CONFIG), Emulator(ArrayConfig(rows=4, cols=3, multiplier="KVP")))


def test_difference_of_a_whole_layer_reads_well():
    difference = Difference("run", "fc", "cycles", None, None, ("scan",), 10, 11)
    assert str(difference) == "stage 'run', layer 'fc', cycles, position (scan): 10 in the reference, 11 in the device"


def test_command_reports_the_difference_with_exit_code_1(tmp_path, monkeypatch):
    class Wrong(Emulator):
        def __init__(self, config, waves):
            super().__init__(config)

        def run_layer(self, layer, activations):
            sums = super().run_layer(layer, activations)
            if layer == "exit2_fc":
                sums[3, 7] += 5
            return sums

        def close(self):
            pass

    monkeypatch.setattr("sim.rtl.RtlAccelerator", Wrong)
    result = CliRunner().invoke(app, ["crosscheck", "--images", "6", "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert "stage 'fault-free', layer 'exit2_fc', accumulators, image 3, output channel 7: " in result.stdout
    found = json.loads((tmp_path / "report.json").read_text())
    assert not found["equal"]
    assert found["first"]["device"] - found["first"]["reference"] == 5
    assert found["stages"][0]["differing"] == {"accumulators": 1}


def test_command_is_silent_about_differences_when_there_are_none():
    result = CliRunner().invoke(app, ["crosscheck", "--images", "4", "--rows", "4", "--cols", "3", "--multiplier", "KV6"])
    assert result.exit_code == 0, result.output
    assert "EQUAL: RTL = PyTorch on " in result.stdout
    assert "differ" not in result.stdout
