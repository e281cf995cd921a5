"""The accumulators: partial sums of the vectors of a tile, kept until the last tile of the reduction has run."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.pe import PSUM_BITS
from hdl.sequencer import VectorTag
from hdl.shared import place_shared

__all__ = ["AccumulatorColumn", "Accumulators"]

COLUMN_MODULE = "accumulator_column"


class AccumulatorColumn(wiring.Component):
    """The adder and the memory of one column; all columns do the same in a cycle.

    Members
    -------
    psum : signed(32), from the array.
    read_address, read_enable : the word to add to the present ``psum``, in the next cycle.
    first : the sum is the one of the last cycle's ``psum`` alone.
    write_address, write_enable : where this cycle's sum goes.
    total : signed(32), the sum for the last cycle's ``psum``.
    """

    def __init__(self, config: ArrayConfig):
        # Two words at least: an address of no bits would be a port of no bits.
        self._words = max(2, config.accumulator_depth)
        address = range(self._words)
        super().__init__(
            {
                "psum": In(signed(PSUM_BITS)),
                "read_address": In(address),
                "read_enable": In(1),
                "first": In(1),
                "write_address": In(address),
                "write_enable": In(1),
                "total": Out(signed(PSUM_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=signed(PSUM_BITS), depth=self._words, init=[])
        write = memory.write_port()
        # Transparent: consecutive tiles of a single vector use the same word in consecutive cycles.
        read = memory.read_port(transparent_for=[write])
        psum = Signal(signed(PSUM_BITS))
        m.d.sync += psum.eq(self.psum)
        m.d.comb += [
            read.addr.eq(self.read_address),
            read.en.eq(self.read_enable),
            write.addr.eq(self.write_address),
            write.en.eq(self.write_enable),
            self.total.eq(psum + Mux(self.first, 0, read.data)),
            write.data.eq(self.total),
        ]
        return m


class Accumulators(wiring.Component):
    """Add each vector's sums to those of the same vector of earlier tiles: one vector per cycle.

    Members
    -------
    tag : VectorTag of the sums.
    psums : signed(32) per column, from the array.
    o : signed(32) per column, the finished sums, valid with ``o_valid``.

    Timing
    ------
    One cycle from ``psums`` to ``o``.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        self._shape = data.ArrayLayout(signed(PSUM_BITS), config.cols)
        super().__init__({"tag": In(VectorTag), "psums": In(self._shape), "o": Out(self._shape), "o_valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        depth = self._config.accumulator_depth
        following = Signal(range(depth))
        index = Signal(range(depth))
        m.d.comb += index.eq(Mux(self.tag.start, 0, following))
        with m.If(self.tag.valid):
            m.d.sync += following.eq(Mux(index == depth - 1, 0, index + 1))

        tag = Signal(VectorTag)
        written = Signal(range(depth))
        m.d.sync += [tag.eq(self.tag), written.eq(index)]
        m.d.comb += self.o_valid.eq(tag.valid & tag.last)
        for c in range(self._config.cols):
            column = place_shared(m, platform, f"column_{c}", COLUMN_MODULE, lambda: AccumulatorColumn(self._config))
            m.d.comb += [
                column.psum.eq(self.psums[c]),
                column.read_address.eq(index),
                column.read_enable.eq(self.tag.valid),
                column.first.eq(tag.first),
                column.write_address.eq(written),
                column.write_enable.eq(tag.valid & ~tag.last),
                self.o[c].eq(column.total),
            ]
        return m
