"""The systolic array: columns of PEs, and the skew registers that let everything outside see it as one parallel unit."""

import functools
import itertools

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.layouts import FaultWord
from hdl.pe import PSUM_BITS, ChainWord, Operation, ProcessingElement
from hdl.shared import place_shared

__all__ = ["COLUMN_MODULE", "PE_MODULE", "Delay", "ProcessingColumn", "SystolicArray", "delayed"]

PE_MODULE = "processing_element"
COLUMN_MODULE = "processing_column"


class ProcessingColumn(wiring.Component):
    """``rows`` PEs below each other: partial sums, weights and stuck bits move down inside, activations and operations go through.

    Members
    -------
    op_i, op_o : Operation per row, from the left, to the right.
    activation_i, activation_o : signed(8) per row, likewise.
    chain_i, chain_o : ChainWord into the top PE, out of the bottom one.
    faults_i : FaultWord into the top PE; only with ``config.fault_injection``.
    psum_o : signed(32) of the bottom PE; the top one adds to zero.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        operations, activations = data.ArrayLayout(Operation, config.rows), data.ArrayLayout(signed(8), config.rows)
        members = {
            "op_i": In(operations),
            "op_o": Out(operations),
            "activation_i": In(activations),
            "activation_o": Out(activations),
            "chain_i": In(ChainWord),
            "chain_o": Out(ChainWord),
            "psum_o": Out(signed(PSUM_BITS)),
        }
        if config.fault_injection:
            members["faults_i"] = In(FaultWord)
        super().__init__(members)

    @property
    def config(self) -> ArrayConfig:
        return self._config

    def elaborate(self, platform):
        m = Module()
        faulty = self._config.fault_injection
        psum, chain, faults = 0, self.chain_i, self.faults_i if faulty else None
        for row in range(self._config.rows):
            pe = place_shared(m, platform, f"pe_{row}", PE_MODULE, lambda: ProcessingElement(self._config))
            m.d.comb += [
                pe.op_i.eq(self.op_i[row]),
                pe.activation_i.eq(self.activation_i[row]),
                pe.psum_i.eq(psum),
                pe.chain_i.eq(chain),
                self.op_o[row].eq(pe.op_o),
                self.activation_o[row].eq(pe.activation_o),
            ]
            psum, chain = pe.psum_o, pe.chain_o
            if faulty:
                m.d.comb += pe.faults_i.eq(faults)
                faults = pe.faults_o
        m.d.comb += [self.psum_o.eq(psum), self.chain_o.eq(chain)]
        return m


class SystolicArray(wiring.Component):
    """``rows`` x ``cols`` PEs; activations move right, partial sums and weights move down.

    Inputs of one cycle belong together, and so do outputs of one cycle: the triangles of skew registers are inside.

    Members
    -------
    op : Operation of all PEs in this (skewed) cycle.
    activations : signed(8) per row.
    chain_i : ChainWord per column, entering the top row at a shift.
    faults_i : FaultWord per column, likewise; only with ``config.fault_injection``.
    psums : signed(32) per column, the sums of the vector that entered ``latency`` cycles before.
    chain_o : ChainWord per column, leaving the bottom row at a shift ``latency - 1`` cycles before.

    Timing
    ------
    ``latency`` = rows + cols cycles.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        members = {
            "op": In(Operation),
            "activations": In(data.ArrayLayout(signed(8), config.rows)),
            "chain_i": In(data.ArrayLayout(ChainWord, config.cols)),
            "psums": Out(data.ArrayLayout(signed(PSUM_BITS), config.cols)),
            "chain_o": Out(data.ArrayLayout(ChainWord, config.cols)),
        }
        if config.fault_injection:
            members["faults_i"] = In(data.ArrayLayout(FaultWord, config.cols))
        super().__init__(members)

    @property
    def config(self) -> ArrayConfig:
        return self._config

    @property
    def latency(self) -> int:
        return self._config.rows + self._config.cols

    def elaborate(self, platform):
        m = Module()
        rows, cols = self._config.rows, self._config.cols
        columns = [
            place_shared(m, platform, f"column_{c}", COLUMN_MODULE, lambda: ProcessingColumn(self._config)) for c in range(cols)
        ]

        op = self.op
        for r in range(rows):
            op = delayed(m, f"op_row{r}", op, Operation, min(r, 1))
            m.d.comb += columns[0].op_i[r].eq(op)
        skewed = staggered(m, platform, "activations_skewed", self.activations)
        for target, row in zip(columns[0].activation_i, skewed, strict=True):
            m.d.comb += target.eq(row)
        for left, right in itertools.pairwise(columns):
            m.d.comb += [right.op_i.eq(left.op_o), right.activation_i.eq(left.activation_o)]

        for column, word in zip(columns, staggered(m, platform, "chain_skewed", self.chain_i), strict=True):
            m.d.comb += column.chain_i.eq(word)
        if self._config.fault_injection:
            for column, word in zip(columns, staggered(m, platform, "faults_skewed", self.faults_i), strict=True):
                m.d.comb += column.faults_i.eq(word)
        # The last column is the latest.
        psums = staggered(m, platform, "psums_skewed", [column.psum_o for column in reversed(columns)])
        scanned = staggered(m, platform, "scan_skewed", [column.chain_o for column in reversed(columns)])
        m.d.comb += [self.psums.eq(Cat(reversed(psums))), self.chain_o.eq(Cat(reversed(scanned)))]
        return m


def delayed(m: Module, name: str, value, shape, cycles: int, *, reset_less: bool = False):
    """Return the value of ``cycles`` cycles ago; ``reset_less`` where a stale value does no harm."""
    for stage in range(cycles):
        register = Signal(shape, name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def staggered(m: Module, platform, name: str, values) -> list[Value]:
    """Return the values, the one at index k delayed by k cycles; they may be stale after a reset.

    A delay is put together from powers of two, so that few modules make up all of them.
    """
    results = []
    for index, value in enumerate(map(Value.cast, values)):
        for power in (1 << bit for bit in range(index.bit_length()) if index >> bit & 1):
            make = functools.partial(Delay, len(value), power)
            delay = place_shared(m, platform, f"{name}_{index}_by_{power}", f"delay_{len(value)}_by_{power}", make)
            m.d.comb += delay.i.eq(value)
            value = delay.o
        results.append(value)
    return results


class Delay(wiring.Component):
    """Put out the word of ``cycles`` cycles ago. The registers are not reset.

    Members
    -------
    i, o : words of ``width`` bits.
    """

    def __init__(self, width: int, cycles: int):
        self._cycles = cycles
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(delayed(m, "stage", self.i, self.i.shape(), self._cycles, reset_less=True))
        return m
