"""The accumulators: partial sums of the vectors of a tile, kept until the last tile of the reduction has run."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.pe import PSUM_BITS
from hdl.sequencer import VectorTag

__all__ = ["Accumulators"]


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
        m.submodules.memory = memory = Memory(shape=self._shape, depth=depth, init=[])
        write = memory.write_port()
        # Transparent: consecutive tiles of a single vector use the same word in consecutive cycles.
        read = memory.read_port(transparent_for=[write])

        following = Signal(range(depth))
        index = Signal(range(depth))
        m.d.comb += [index.eq(Mux(self.tag.start, 0, following)), read.addr.eq(index), read.en.eq(self.tag.valid)]
        with m.If(self.tag.valid):
            m.d.sync += following.eq(Mux(index == depth - 1, 0, index + 1))

        tag = Signal(VectorTag)
        psums = Signal(self._shape)
        written = Signal(range(depth))
        m.d.sync += [tag.eq(self.tag), psums.eq(self.psums), written.eq(index)]
        for total, psum, kept in zip(self.o, psums, read.data, strict=True):
            m.d.comb += total.eq(psum + Mux(tag.first, 0, kept))
        m.d.comb += [
            self.o_valid.eq(tag.valid & tag.last),
            write.en.eq(tag.valid & ~tag.last),
            write.addr.eq(written),
            write.data.eq(self.o),
        ]
        return m
