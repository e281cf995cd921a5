"""The accelerator's streams in a cocotb bench: AXI4-Stream drivers with idle and back-pressure, and whole programs through them."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, SimTimeoutError, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiStreamBus, AxiStreamSink, AxiStreamSource

from epsilon.config import ArrayConfig
from hdl.verilog import port_widths
from sim.program import Program, Run
from sim.verilated import INPUTS, OUTPUTS, SimulationError

__all__ = ["PAUSES", "StreamBench"]

PERIOD_NS = 10
#: How streams rest, by name: patterns of cycles, 1 for a pause.
PAUSES = {"none": (), "alternate": (0, 1), "bursts": (0, 0, 0, 0, 0, 1, 1, 1), "mostly": (1, 1, 1, 1, 1, 1, 0)}

# cocotbext-axi 0.1.28 works with cocotb 2.1 through names that are deprecated there.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi")


class StreamBench:
    """Owns the clock, the reset and a driver on every stream of ``hdl.accelerator.EpsilonAccelerator``.

    Parameters
    ----------
    dut : the simulated ``epsilon_accelerator``
    config : ArrayConfig
    """

    def __init__(self, dut, config: ArrayConfig) -> None:
        self.dut = dut
        self.config = config
        self._bytes = {name: width // 8 for name, width in port_widths(config).items()}
        for name in self._bytes:
            # The drivers log every beat otherwise.
            logging.getLogger(f"cocotb.{dut._name}.{name}").setLevel(logging.ERROR)
        dut.rst.value = 1
        cocotb.start_soon(Clock(dut.clk, PERIOD_NS, "ns").start())
        self.sources = {name: self._driver(AxiStreamSource, name) for name in INPUTS if name in self._bytes}
        self.sinks = {name: self._driver(AxiStreamSink, name) for name in OUTPUTS}

    def _driver(self, kind: type, name: str):
        return kind(AxiStreamBus.from_prefix(self.dut, name), self.dut.clk, self.dut.rst)

    async def reset(self) -> None:
        """Reset the accelerator and the drivers; what these hold is lost."""
        self.dut.rst.value = 1
        for driver in (*self.sources.values(), *self.sinks.values()):
            driver.clear()
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)

    def pause(self, *, idle: str = "none", back_pressure: str = "none") -> None:
        """Make the sources idle and the sinks hold back, each by a pattern of ``PAUSES``; every stream at another phase."""
        for drivers, pattern in ((self.sources, PAUSES[idle]), (self.sinks, PAUSES[back_pressure])):
            for phase, driver in enumerate(drivers.values()):
                driver.set_pause_generator(_from_phase(pattern, phase) if pattern else None)
                driver.pause = False

    async def run(self, program: Program, *, max_cycles: int) -> Run:
        """Run a program, every image until the accelerator is idle again.

        Raises
        ------
        SimulationError
            When it takes more than ``max_cycles`` for an image, or puts out another number of beats than it says.
        """
        busy, started = 0, get_sim_time("ns")
        accepted = dict.fromkeys(INPUTS, 0)
        for image in range(program.images):
            before = self.cycles
            sent = self.send(program, image)
            try:
                await with_timeout(self._until_idle(), max_cycles * PERIOD_NS, "ns")
            except SimTimeoutError:
                raise SimulationError(f"The accelerator did not finish within {max_cycles} cycles") from None
            busy += (self.cycles - before) % 2**32
            # Every source is idle: what was sent has crossed.
            for name, beats in sent.items():
                accepted[name] += beats
        clock = round((get_sim_time("ns") - started) / PERIOD_NS)
        outputs = (self._receive(name, getattr(program, name)) for name in OUTPUTS)
        return Run(*outputs, busy_cycles=busy, clock_cycles=clock, accepted=accepted)

    @property
    def cycles(self) -> int:
        """The accelerator's own counter."""
        return self.dut.cycles.value.to_unsigned()

    def send(self, program: Program, image: int = 0) -> dict[str, int]:
        """Give the sources what they send for one image; the first beats are all offered in the same cycle.

        Return how many beats of each.
        """
        per_image = len(program.activations) // program.images
        beats = {name: getattr(program, name) for name in INPUTS}
        beats["activations"] = program.activations[image * per_image : (image + 1) * per_image]
        for name, source in self.sources.items():
            if len(beats[name]):
                source.send_nowait(beats[name].tobytes())
        return {name: len(beats[name]) for name in self.sources}

    def assert_drained(self) -> None:
        """Assert that nothing is left in any driver or in the accelerator."""
        left = [name for name, sink in self.sinks.items() if not sink.empty() or sink.read_queue]
        assert not left, f"beats are left in the sinks of {', '.join(left)}"
        left = [name for name, source in self.sources.items() if not source.idle()]
        assert not left, f"beats are left in the sources of {', '.join(left)}"
        assert self.dut.busy.value == 0, "the accelerator is busy"

    async def _until_idle(self) -> None:
        while True:
            await FallingEdge(self.dut.busy)
            # With idle sources the accelerator may rest between two tiles.
            await RisingEdge(self.dut.clk)
            if self.dut.busy.value == 0 and all(source.idle() for source in self.sources.values()):
                return

    def _receive(self, name: str, expected: int) -> np.ndarray:
        beats = np.frombuffer(bytes(self.sinks[name].read_nowait()), np.uint8).reshape(-1, self._bytes[name])
        if len(beats) != expected:
            raise SimulationError(f"The accelerator put out {len(beats)} beats of {name}, not {expected}")
        return beats.copy()


def _from_phase(pattern: tuple[int, ...], phase: int) -> Iterator[int]:
    return itertools.islice(itertools.cycle(pattern), phase, None)
