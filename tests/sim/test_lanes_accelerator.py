"""The accelerator in bit lanes equals the emulator: every accumulator, record, word, stuck bit and cycle, in every lane."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from epsilon.accelerator import ScanRecords, WeightWords
from epsilon.config import ArrayConfig
from epsilon.crosscheck import Lockstep, crosscheck
from epsilon.emulator import Emulator
from epsilon.executor import Execution
from epsilon.faults import FaultMap, Registers
from epsilon.network import Convolution, Exit, Flatten, Linear, QuantizedNetwork, Requantization
from epsilon.repair import get_repair
from sim.lanes.accelerator import FaultLanes, LanesAccelerator, NetFault

CONFIG = ArrayConfig(rows=4, cols=3, multiplier="KVP", level="gates", accumulator_depth=6)
LANES = 64


def small_network() -> QuantizedNetwork:
    """Return a network with groups, padding, strides, partial tiles and two exits."""
    rng = np.random.default_rng(5)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    def bias(outputs: int) -> np.ndarray:
        return rng.integers(-500, 500, outputs).astype(np.int32)

    scaled = Requantization(np.array([3], np.int32), np.array([9], np.int8), low=0)
    layers = (
        Convolution(
            name="c1", inputs=("input",), weight=weights(4, 1, 3, 3), bias=bias(4), requantization=scaled, groups=2, padding=(1, 1)
        ),
        Flatten(name="f1", inputs=("c1",)),
        Linear(name="l1", inputs=("f1",), weight=weights(3, 64), bias=bias(3)),
        Exit(name="e1", inputs=("l1",), scale=np.array([0.5, 0.25, 1.0])),
        Convolution(name="c2", inputs=("c1",), weight=weights(5, 4, 2, 2), bias=bias(5), requantization=scaled, stride=(2, 2)),
        Flatten(name="f2", inputs=("c2",)),
        Linear(name="l2", inputs=("f2",), weight=weights(3, 20), bias=bias(3)),
        Exit(name="e2", inputs=("l2",), scale=np.array([1.0, 2.0, 1.0])),
    )
    table = np.tile(np.arange(-128, 128).astype(np.int8), (2, 1))
    return QuantizedNetwork(name="small", input_shape=(2, 4, 4), input_table=table, layers=layers, classes=3)


def random_codes(images: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(-128, 128, (images, 2, 4, 4), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def sample(network: QuantizedNetwork, seed: int, sites: str = "storage array") -> FaultMap:
    drawn = FaultMap.empty()
    for site in sites.split():
        drawn |= FaultMap.sample(network, CONFIG, site=site, rate=0.3, polarity="both", seed=seed)
    return drawn


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    return small_network()


@pytest.fixture(scope="module")
def lanes():
    accelerator = LanesAccelerator(CONFIG, lanes=LANES)
    yield accelerator
    accelerator.close()


@pytest.fixture(scope="module")
def fault_lanes(network):
    simulated = FaultLanes(CONFIG, network, lanes=LANES)
    yield simulated
    simulated.close()


@pytest.mark.parametrize("images", [1, 7, LANES, LANES + 3])
def test_everything_equals_the_emulator(lanes, network, images):
    lanes.reset_counters()
    report = crosscheck(
        Emulator(CONFIG),
        lanes,
        network,
        random_codes(images),
        fault_maps={site: sample(network, 3, site) for site in ("storage", "array")},
        repairs=[get_repair("nearest")],
        batch=images,
    )
    assert report.first is None
    assert {name for stage in report.stages for name in stage.compared} >= {
        "accumulators",
        "scan records",
        "seen weights",
        "cycles",
    }


def test_narrowed_batches_and_mixed_operations_equal_the_emulator(lanes, network):
    both = Lockstep(Emulator(CONFIG), lanes)
    both.load(network)
    both.set_faults(sample(network, 9))
    both.reset_counters()
    execution = Execution(both, random_codes(11))
    execution.exit(0)
    keep = torch.zeros(11, dtype=torch.bool)
    keep[[2, 3, 10]] = True
    execution.narrow(keep)
    both.probe("c2")
    words = WeightWords.plain(network["c2"].matrix[::-1].copy())
    words.bypass[0, 1] = words.invert[1, 0] = True
    both.write_weights("c2", words)
    execution.exit(1)
    both.read_records()
    both.read_weights("l2")
    both.probe("l1")
    both.run_layer("c1", random_codes(1))
    both.read_records()
    assert both.first is None
    assert both.compared("stuck bits") > 0


def test_cycles_are_those_of_all_images(lanes, network):
    lanes.load(network)
    lanes.set_faults(None)
    lanes.reset_counters()
    lanes.run_layer("c1", random_codes(1))
    single = lanes.counters().run
    lanes.run_layer("c1", random_codes(LANES + 3))
    assert lanes.counters().run == single * (1 + LANES + 3)


def test_no_image_costs_nothing(lanes, network):
    lanes.load(network)
    lanes.reset_counters()
    assert lanes.run_layer("c1", random_codes(0)).shape == (0, 4, 4, 4)
    assert lanes.counters().run == 0


def test_every_lane_has_its_own_faults(fault_lanes, network):
    # More maps than lanes, of either site, both and none.
    sites = ["storage", "array", "storage array", ""]
    maps = [sample(network, seed, sites[seed % 4]) for seed in range(LANES + 5)]
    for codes in (random_codes(1), random_codes(len(maps))):
        sums: dict[str, list[torch.Tensor]] = {}
        logits = fault_lanes.run(codes, maps, observer=lambda name, _, found, sums=sums: sums.setdefault(name, []).append(found))
        for index, faults in enumerate(maps):
            wanted: dict[str, torch.Tensor] = {}
            emulator = Emulator(CONFIG)
            emulator.load(network)
            emulator.set_faults(faults)
            mine = codes[index : index + 1] if len(codes) > 1 else codes
            execution = Execution(emulator, mine, lambda name, _, found, wanted=wanted: wanted.update({name: found}))
            for exit_index in range(2):
                assert torch.equal(logits[exit_index][index], execution.exit(exit_index)[0]), f"map {index}, exit {exit_index}"
            for name, found in wanted.items():
                assert torch.equal(torch.cat(sums[name])[index], found[0]), f"map {index}, layer {name}"


def test_records_of_every_lane(fault_lanes, network):
    maps = [sample(network, seed, ["storage", "array"][seed % 2]) for seed in range(LANES + 2)]
    records = fault_lanes.read_records(maps)
    for index, faults in enumerate(maps):
        emulator = Emulator(CONFIG)
        emulator.load(network)
        emulator.set_faults(faults)
        for layer, wanted in emulator.read_records().items():
            for entry in fields(ScanRecords):
                found = getattr(records[layer], entry.name)
                assert len(found) == len(maps)
                assert np.array_equal(getattr(wanted, entry.name), found[index]), (layer, entry.name)


def test_stuck_nets_of_every_lane(network):
    """A register bit is stuck through its mask, or at its output: the same numbers, and none of either outlives the call."""
    simulated = FaultLanes(CONFIG, network, lanes=LANES, nets=True)
    try:
        nets = {name: index for index, name in enumerate(simulated.net_names)}
        places = [(pe, bit, stuck_at) for pe in range(CONFIG.pes) for bit in range(8) for stuck_at in (0, 1)][:: LANES // 16]
        maps, stuck = [FaultMap.empty()], [FaultMap.empty()]
        for pe, bit, stuck_at in places:
            register = Registers((4, 3), np.array([pe]), np.array([bit], np.uint8), np.array([stuck_at], np.uint8))
            maps += [FaultMap(array=register)] * 2
            # Bits 0..7 of a fault word are stuck at 0, 8..15 at 1.
            stuck.append(NetFault(*divmod(pe, 3), nets[f"active[{bit}]"], stuck_at))
            stuck.append(NetFault(*divmod(pe, 3), nets[f"faults[{8 * stuck_at + bit}]"], 1))
        codes = random_codes(len(maps))
        wanted = simulated.run(codes, maps)
        for _ in range(2):
            for one, other in zip(simulated.run(codes, stuck), wanted, strict=True):
                assert torch.equal(one, other)
            for one, other in zip(simulated.run(codes, maps), wanted, strict=True):
                assert torch.equal(one, other)
        assert not torch.equal(wanted[1], simulated.run(codes, [FaultMap.empty()] * len(maps))[1])
    finally:
        simulated.close()


def test_wrong_numbers_of_images_and_maps(fault_lanes, network):
    with pytest.raises(ValueError, match="one image, or one for each of the 3 fault maps, not 2"):
        fault_lanes.run(random_codes(2), [FaultMap.empty()] * 3)
    with pytest.raises(ValueError, match="at least one fault map"):
        fault_lanes.run(random_codes(1), [])


def test_maps_of_another_array_are_refused(fault_lanes, network):
    other = FaultMap.sample(network, ArrayConfig(rows=2, cols=2), site="array", rate=0.5, seed=1)
    with pytest.raises(ValueError, match="2x2 PEs, not of 4x3"):
        fault_lanes.run(random_codes(1), [other])


def test_needs_fault_injection(network):
    with pytest.raises(ValueError, match="without fault injection"):
        FaultLanes(ArrayConfig(rows=2, cols=2, fault_injection=False), network, lanes=64)
