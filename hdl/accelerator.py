"""The accelerator: sequencer, array, accumulators and signature unit between its streams."""

from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.accumulator import Accumulators
from hdl.array import SystolicArray, delayed
from hdl.layouts import Command, FaultWord, ScanRecord, WeightWord
from hdl.pe import PSUM_BITS
from hdl.sequencer import Credit, ScanTag, Sequencer, VectorTag
from hdl.signature import SignatureUnit

__all__ = ["CYCLE_COUNTER_BITS", "EpsilonAccelerator", "accelerator_signature"]

CYCLE_COUNTER_BITS = 32
#: Registers outside the array on the longest way: sequencer, accumulator, and three for an output FIFO.
PIPELINE_REGISTERS = 5


def accelerator_signature(config: ArrayConfig) -> wiring.Signature:
    """Return the ports of an accelerator, see ``EpsilonAccelerator``."""
    cols = config.cols
    members = {
        "commands": In(stream.Signature(Command)),
        "weights": In(stream.Signature(data.ArrayLayout(WeightWord, cols))),
        "activations": In(stream.Signature(data.ArrayLayout(signed(8), config.rows))),
        "results": Out(stream.Signature(data.ArrayLayout(signed(PSUM_BITS), cols))),
        "readback": Out(stream.Signature(data.ArrayLayout(WeightWord, cols))),
        "signatures": Out(stream.Signature(data.ArrayLayout(ScanRecord, cols))),
        "busy": Out(1),
        "cycles": Out(CYCLE_COUNTER_BITS),
    }
    if config.fault_injection:
        members["faults"] = In(stream.Signature(data.ArrayLayout(FaultWord, cols)))
    return wiring.Signature(members)


class EpsilonAccelerator(wiring.Component):
    """Run tiles of a quantised network through approximate multipliers, and report the weights that the multipliers saw.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    commands : stream of Command, one per tile.
    weights : stream, ``rows`` beats per tile, bottom row first: WeightWord per column.
    activations : stream, one beat per vector: int8 per row.
    faults : stream, with every weight beat of a tile with ``masks``: FaultWord per column. Only with ``config.fault_injection``.
    results : stream, one beat per vector of a tile with ``last``: int32 per column.
    readback : stream, ``rows`` beats per scanned-out tile with ``readback``, bottom row first: WeightWord per column.
    signatures : stream, one beat per scanned-out tile with ``signature``: ScanRecord per column.
    busy : something is being done, or a result waits to be taken.
    cycles : unsigned(32), busy cycles since reset, modulo 2**32.

    A tile is scanned out by the second tile after it. All streams follow ``amaranth.lib.stream``, and so AXI4-Stream.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(accelerator_signature(config))

    @property
    def config(self) -> ArrayConfig:
        return self._config

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.array = array = SystolicArray(config)
        m.submodules.sequencer = sequencer = Sequencer(config, drain=array.latency + PIPELINE_REGISTERS)
        m.submodules.accumulators = accumulators = Accumulators(config)
        m.submodules.signature = signature = SignatureUnit(config)

        for name in ("commands", "weights", "activations") + (("faults",) if config.fault_injection else ()):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(sequencer, name))

        m.d.comb += [
            array.op.eq(sequencer.op),
            array.activations.eq(sequencer.row_activations),
            array.chain_i.eq(sequencer.col_words),
            accumulators.tag.eq(delayed(m, "vector_tag", sequencer.vector, VectorTag, array.latency)),
            accumulators.psums.eq(array.psums),
            signature.scan_issued.eq(sequencer.scan),
            signature.command.eq(sequencer.scanned),
            signature.scan.eq(delayed(m, "scan_tag", sequencer.scan, ScanTag, array.latency - 1)),
            signature.words.eq(array.chain_o),
        ]
        if config.fault_injection:
            m.d.comb += array.faults_i.eq(sequencer.col_faults)

        # Deep enough that a sink that is always ready never makes the sequencer wait for a credit.
        depth = array.latency + PIPELINE_REGISTERS + 2
        waiting = [
            self._buffer(m, "results", depth, accumulators.o, accumulators.o_valid, sequencer.result_credit),
            self._buffer(m, "readback", depth, signature.readback, signature.readback_valid, sequencer.readback_credit),
            self._buffer(m, "signatures", depth, signature.record, signature.record_valid, sequencer.record_credit),
        ]
        m.d.comb += self.busy.eq(sequencer.working | waiting[0] | waiting[1] | waiting[2])
        m.d.sync += self.cycles.eq(self.cycles + self.busy)
        return m

    def _buffer(self, m: Module, name: str, depth: int, payload, valid, credit):
        """Put a FIFO in front of an output stream, with the credit of its places; return whether something waits in it."""
        output = getattr(self, name)
        m.submodules[f"{name}_fifo"] = fifo = SyncFIFOBuffered(width=len(payload.as_value()), depth=depth)
        m.submodules[f"{name}_credit"] = places = Credit(depth)
        m.d.comb += [
            fifo.w_data.eq(payload),
            fifo.w_en.eq(valid),
            output.payload.eq(fifo.r_data),
            output.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(output.ready),
            places.give.eq(fifo.r_rdy & output.ready),
            places.take.eq(credit.take),
            credit.available.eq(places.available),
        ]
        return fifo.level != 0
