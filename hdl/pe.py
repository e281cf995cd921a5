"""The processing element: two weight registers, stuck-at masks, the approximate multiplier and the adder."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.layouts import FaultWord
from hdl.multiplier import MultiplierUnit

__all__ = ["ChainWord", "Operation", "ProcessingElement", "pe_signature"]

PSUM_BITS = 32


class Operation(data.Struct):
    """What a PE does in its cycle; travels right with the activations, one column per cycle.

    ``shift`` moves the weight chain one row down, ``swap`` exchanges the shift and the active register (never both at once),
    ``masks`` makes a swap take the stuck bits along.
    """

    shift: 1
    swap: 1
    masks: 1


class ChainWord(data.Struct):
    """The word in a weight register: int8 code and two flags."""

    weight: 8
    invert: 1
    bypass: 1


def pe_signature(config: ArrayConfig) -> wiring.Signature:
    """Return the ports of a processing element, see there."""
    members = {
        "op_i": In(Operation),
        "op_o": Out(Operation),
        "activation_i": In(signed(8)),
        "activation_o": Out(signed(8)),
        "psum_i": In(signed(PSUM_BITS)),
        "psum_o": Out(signed(PSUM_BITS)),
        "chain_i": In(ChainWord),
        "chain_o": Out(ChainWord),
    }
    if config.fault_injection:
        members |= {"faults_i": In(FaultWord), "faults_o": Out(FaultWord)}
    return wiring.Signature(members)


class ProcessingElement(wiring.Component):
    """Add ``multiply(activation, seen)`` to the partial sum from above.

    ``seen = bypass ? 0 : ((weight & ~sa0) | sa1) ^ (invert ? 0xFF : 0)`` is what the multiplier sees of the active register. At a
    swap the shift register becomes active and *seen*, stuck bits included, takes its place; later shifts carry it out at the
    bottom.

    Every PE does at cycle t + row + column what PE (0, 0) does at cycle t. So each path to a neighbour has exactly one register:
    the activation and operation registers to the right, the partial sum and the chain's link register downwards. There is no
    flow control inside the array: whoever issues an operation has made sure that its results will be taken.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    op_i, op_o : Operation from the left, to the right.
    activation_i, activation_o : signed(8), from the left, to the right.
    psum_i, psum_o : signed(32), from above, downwards.
    chain_i, chain_o : ChainWord from above, downwards (used at shifts).
    faults_i, faults_o : FaultWord likewise; only with ``config.fault_injection``.

    Timing
    ------
    An activation that enters with cycle t is in ``psum_o`` after cycle t + 1; it meets the weight of a swap of cycle t or before.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(pe_signature(config))

    @property
    def config(self) -> ArrayConfig:
        return self._config

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = MultiplierUnit(self._config.multiplier, level=self._config.level)

        # Only the operations and the stuck bits are reset: nothing reads a register that was not written since.
        shift_register = Signal(ChainWord, reset_less=True)
        active = Signal(ChainWord, reset_less=True)
        seen = Signal(ChainWord)
        weight = active.weight
        if self._config.fault_injection:
            shifted_faults = Signal(FaultWord, reset_less=True)
            faults = Signal(FaultWord)
            weight = (weight & ~faults.sa0) | faults.sa1
        if self._config.repair:
            m.d.comb += [
                seen.weight.eq(Mux(active.bypass, 0, weight ^ active.invert.replicate(8))),
                seen.invert.eq(active.invert),
                seen.bypass.eq(active.bypass),
            ]
        else:
            m.d.comb += seen.weight.eq(weight)

        activation = Signal(signed(8), reset_less=True)
        psum = Signal(signed(PSUM_BITS), reset_less=True)
        link = Signal(ChainWord, reset_less=True)
        m.d.sync += [self.op_o.eq(self.op_i), activation.eq(self.activation_i)]
        with m.If(self.op_i.shift):
            m.d.sync += [link.eq(shift_register), shift_register.eq(self.chain_i)]
        with m.Elif(self.op_i.swap):
            m.d.sync += [active.eq(shift_register), shift_register.eq(seen)]
        if self._config.fault_injection:
            faults_link = Signal(FaultWord, reset_less=True)
            with m.If(self.op_i.shift):
                m.d.sync += [faults_link.eq(shifted_faults), shifted_faults.eq(self.faults_i)]
            with m.Elif(self.op_i.swap & self.op_i.masks):
                m.d.sync += faults.eq(shifted_faults)
            m.d.comb += self.faults_o.eq(faults_link)

        m.d.sync += psum.eq(self.psum_i + multiplier.o)
        m.d.comb += [
            multiplier.a.eq(activation),
            multiplier.b.eq(seen.weight.as_signed()),
            self.activation_o.eq(activation),
            self.psum_o.eq(psum),
            self.chain_o.eq(link),
        ]
        return m
