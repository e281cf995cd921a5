"""Operations of the array and the PE cycle by cycle, and the ports that take them: there is no flow control inside the array."""

from __future__ import annotations

from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

from sim.benches.golden import random_words

__all__ = ["IDLE", "OperationBench", "Stimuli", "pack"]

PERIOD_NS = 10
#: Fractions of cycles without an operation.
IDLE = (0.0, 0.3, 0.9)
SHIFT, SWAP, MASKS = 1, 2, 4


@dataclass(frozen=True, eq=False)
class Stimuli:
    """What enters in each cycle.

    Parameters
    ----------
    op : int (cycles,)
        Bits of ``hdl.pe.Operation``.
    activations : int8 (cycles, rows)
    words, faults : uint16 (cycles, cols)
    """

    op: np.ndarray
    activations: np.ndarray
    words: np.ndarray
    faults: np.ndarray

    def __len__(self) -> int:
        return len(self.op)

    def __add__(self, other: Stimuli) -> Stimuli:
        return Stimuli(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def random(cls, rng: np.random.Generator, cycles: int, rows: int, cols: int, *, idle: float) -> Stimuli:
        """Return shifts and swaps in any order; operands also where no operation takes them."""
        op = rng.choice([SHIFT, SWAP, SWAP | MASKS], cycles, p=[0.7, 0.15, 0.15])
        # Most registers have one stuck bit or none, some any number.
        faults = np.where(rng.random((cycles, cols)) < 0.5, 1 << rng.integers(0, 16, (cycles, cols)), 0)
        faults = np.where(rng.random((cycles, cols)) < 0.1, rng.integers(0, 1 << 16, (cycles, cols)), faults)
        return cls(
            op=np.where(rng.random(cycles) < idle, rng.choice([0, MASKS], cycles), op),
            activations=rng.integers(-128, 128, (cycles, rows)).astype(np.int8),
            words=random_words(rng, (cycles, cols)),
            faults=faults.astype(np.uint16),
        )

    @classmethod
    def loads(cls, rng: np.random.Generator, words: np.ndarray, faults: np.ndarray) -> Stimuli:
        """Return the loads of tiles, uint16 (tiles, rows, cols), bottom row first, each with its stuck bits and then a swap."""
        tiles, rows, cols = words.shape
        op = np.tile([SHIFT] * rows + [SWAP | MASKS], tiles)

        def per_cycle(values: np.ndarray) -> np.ndarray:
            swap = np.zeros((tiles, 1, cols), np.uint16)
            return np.concatenate([values[:, ::-1], swap], axis=1).reshape(-1, cols).astype(np.uint16)

        activations = rng.integers(-128, 128, (len(op), rows)).astype(np.int8)
        return cls(op, activations, per_cycle(words), per_cycle(faults))


class OperationBench:
    """Owns the clock, the reset and the cycle-by-cycle driver of a device without flow control.

    Parameters
    ----------
    dut : the simulated device
    outputs : tuple of str
        Ports to record.
    """

    def __init__(self, dut, outputs: tuple[str, ...]) -> None:
        self.dut = dut
        self._outputs = [getattr(dut, name) for name in outputs]

    async def run(self, inputs: dict[str, list[int]], *, unchecked: int) -> list[tuple[int, ...]]:
        """Reset the device, drive the inputs (unsigned, one value per cycle), and return the outputs of every later cycle.

        The first ``unchecked`` cycles' outputs are 0: registers that nothing has written hold nothing.
        """
        dut = self.dut
        ports = [getattr(dut, name) for name in inputs]
        for port in ports:
            port.value = 0
        dut.rst.value = 1
        clock = cocotb.start_soon(Clock(dut.clk, PERIOD_NS, "ns").start())
        await ClockCycles(dut.clk, 2)
        dut.rst.value = 0
        observed = []
        edge = RisingEdge(dut.clk)
        for cycle, values in enumerate(zip(*inputs.values(), strict=True)):
            for port, value in zip(ports, values, strict=True):
                port.value = value
            await edge
            checked = cycle >= unchecked
            observed.append(tuple(port.value.to_unsigned() if checked else 0 for port in self._outputs))
        clock.cancel()
        return observed


def pack(values: np.ndarray, bits: int) -> list[int]:
    """Return integers (cycles, elements) as one unsigned number of ``bits`` each per cycle, the first element lowest."""
    mask = (1 << bits) - 1
    return [sum((int(value) & mask) << bits * index for index, value in enumerate(row)) for row in values]
