"""The controller, the code of every other place, on the simulated accelerator; every integer is that of the emulator."""

from __future__ import annotations

import cocotb
import numpy as np
import torch
from cocotb.task import bridge

from epsilon import data, network_io
from epsilon.config import ArrayConfig
from epsilon.controller import Controller, StreamResult
from epsilon.crosscheck import QUANTITIES, Lockstep
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from epsilon.repair import get_repair, golden_weights
from epsilon.techniques import gamma_of
from sim.benches.device import CocotbAccelerator
from sim.benches.runner import CONFIG_VARIABLE, GOLDEN_VARIABLE, config_of
from sim.benches.streams import StreamBench

IMAGES = 3
#: Of the PEs or of the stored weights.
FAULT_RATE = 0.2
#: Fault maps that are tried for one that makes the controller repair something with images before and after.
SEEDS = 100


@cocotb.test()
@cocotb.parametrize((("site", "repair"), [("array", "nearest"), ("storage", "invert")]))
async def repairs_while_images_stream(dut, site, repair):
    """Confidence, check, probe, repair and the images after it: predictions, exits, events, cycles, every accumulator."""
    bench, config, network, codes = await _start(dut)
    faults, expected = _repairable(network, codes, site, repair)
    lockstep = Lockstep(Emulator(config), CocotbAccelerator(bench))
    got = await bridge(_stream)(lockstep, network, codes, faults, repair)
    assert lockstep.first is None, str(lockstep.first)
    for quantity in QUANTITIES:
        assert lockstep.compared(quantity) or (quantity == "stuck bits" and not get_repair(repair).needs_probe), quantity
    for name, values in vars(expected).items():
        assert np.array_equal(getattr(got, name), values), f"{name}: {getattr(got, name)} instead of {values}"
    bench.assert_drained()


@cocotb.test()
async def pauses_change_nothing_but_cycles(dut):
    """An image to the first exit, a check and a probe, with every source idle and every sink holding back at times."""
    bench, config, network, codes = await _start(dut)
    bench.pause(idle="bursts", back_pressure="alternate")
    lockstep = Lockstep(Emulator(config), CocotbAccelerator(bench, slack=10))
    faults = FaultMap.sample(network, config, site="array", rate=FAULT_RATE, polarity="both", seed=1)
    layer = network.weighted[0].name

    def run() -> None:
        lockstep.load(network)
        lockstep.set_faults(faults)
        lockstep.reset_counters()
        Execution(lockstep, codes[:1]).exit(0)
        lockstep.read_records()
        lockstep.read_weights(layer)
        lockstep.probe(layer)

    await bridge(run)()
    (stage,) = lockstep.stages
    assert set(stage.compared) == set(QUANTITIES), f"only {', '.join(stage.compared)} compared"
    assert set(stage.differing) == {"cycles"}, f"{dict(stage.differing)} differ, {stage.first}"
    bench.assert_drained()


async def _start(dut) -> tuple[StreamBench, ArrayConfig, QuantizedNetwork, torch.Tensor]:
    torch.set_num_threads(1)
    bench = StreamBench(dut, config_of(CONFIG_VARIABLE))
    await bench.reset()
    network = network_io.load("digits")
    codes = encode(network, data.load("digits", "test").images[:IMAGES])
    return bench, config_of(GOLDEN_VARIABLE), network, codes


def _stream(accelerator, network: QuantizedNetwork, codes: torch.Tensor, faults: FaultMap, repair: str) -> StreamResult:
    accelerator.load(network)
    accelerator.set_faults(faults)
    accelerator.reset_counters()
    golden = None if faults.has_storage else golden_weights(network)
    gamma = gamma_of(network, accelerator.config)
    controller = Controller(accelerator, gamma=gamma, repair=get_repair(repair), detector="exact", golden=golden)
    return controller.stream(codes, lookahead=2)


def _repairable(network: QuantizedNetwork, codes: torch.Tensor, site: str, repair: str) -> tuple[FaultMap, StreamResult]:
    """Return a fault map that the controller repairs neither at the first nor at the last image, and the emulator's results."""
    config = config_of(GOLDEN_VARIABLE)
    for seed in range(SEEDS):
        faults = FaultMap.sample(network, config, site=site, rate=FAULT_RATE, seed=seed)
        result = _stream(Emulator(config), network, codes, faults, repair)
        if result.repairs and 0 < result.repairs[0].image < len(codes) - 1:
            return faults, result
    raise AssertionError(f"none of {SEEDS} fault maps makes the controller repair anything")
