"""The sequencer: turns commands and the arriving weights and activations into the operations of the array."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.layouts import Command, FaultWord, WeightWord
from hdl.pe import ChainWord, Operation

__all__ = ["Credit", "ScanTag", "Sequencer", "VectorTag"]


class VectorTag(data.Struct):
    """Accompanies an activation vector: ``start`` the tile's first one, ``first``/``last`` as in the command."""

    valid: 1
    start: 1
    first: 1
    last: 1


class ScanTag(data.Struct):
    """Accompanies a shift whose outgoing row is to be reported; ``start`` is the tile's first row out, the bottom one."""

    valid: 1
    start: 1


class Credit(wiring.Component):
    """Counts the free places of an output FIFO, taken when something is sent on its way through the array, not when it arrives.

    Members
    -------
    take, give : one place taken, one freed, in this cycle.
    available : at least one place is free.
    """

    take: In(1)
    give: In(1)
    available: Out(1)

    def __init__(self, places: int):
        self._places = places
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        free = Signal(range(self._places + 1), init=self._places)
        m.d.comb += self.available.eq(free != 0)
        m.d.sync += free.eq(free + self.give - self.take)
        return m


class Sequencer(wiring.Component):
    """Load tiles, swap them in, run their vectors; one operation a cycle.

    The next tile shifts in while the present one runs. Nothing is issued unless its operands are there and its results have a
    place to go, so the array needs no flow control.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    commands : stream of Command, one per tile.
    weights : stream of WeightWord per column, ``rows`` beats per tile, bottom row first.
    activations : stream of signed(8) per row, ``vectors`` beats per tile.
    faults : stream of FaultWord per column, with every weight beat of a tile whose command says ``masks``.
    op, row_activations, col_words, col_faults : to the array, one register after the decision.
    vector, scan : tags of what was issued, in step with ``op``.
    scanned : the command of the tile whose rows the ``scan`` tags announce, valid with ``scan.start``.
    result_credit, readback_credit, record_credit : Credit of the three output FIFOs.
    working : a command is being carried out, or was within the last ``drain`` cycles.
    """

    def __init__(self, config: ArrayConfig, *, drain: int):
        self._config = config
        self._drain = drain
        credit = wiring.Signature({"available": In(1), "take": Out(1)})
        members = {
            "commands": In(stream.Signature(Command)),
            "weights": In(stream.Signature(data.ArrayLayout(WeightWord, config.cols))),
            "activations": In(stream.Signature(data.ArrayLayout(signed(8), config.rows))),
            "op": Out(Operation),
            "row_activations": Out(data.ArrayLayout(signed(8), config.rows)),
            "col_words": Out(data.ArrayLayout(ChainWord, config.cols)),
            "vector": Out(VectorTag),
            "scan": Out(ScanTag),
            "scanned": Out(Command),
            "result_credit": Out(credit),
            "readback_credit": Out(credit),
            "record_credit": Out(credit),
            "working": Out(1),
        }
        if config.fault_injection:
            members["faults"] = In(stream.Signature(data.ArrayLayout(FaultWord, config.cols)))
            members["col_faults"] = Out(data.ArrayLayout(FaultWord, config.cols))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        rows = self._config.rows

        loading = Signal(Command)  # the tile in the shift registers, complete once ``beats_left`` is 0
        load_busy = Signal()
        beats_left = Signal(range(rows + 1))
        running = Signal(Command)  # the tile in the active registers
        leaving = Signal(Command)  # the tile that left the active registers last, and that shifts push out
        vectors_left = Signal(16)
        at_start = Signal()

        shift, swap, issue = Signal(), Signal(), Signal()
        m.d.comb += [
            swap.eq(load_busy & (beats_left == 0) & (vectors_left == 0)),
            self.commands.ready.eq(~load_busy | swap),
        ]

        # Loading: a shift needs its weights (and faults), and a place for every report of the row it pushes out.
        first_beat = Signal()
        operands = self.weights.valid
        if self._config.fault_injection:
            operands = operands & (self.faults.valid | ~loading.masks)
        places = (self.readback_credit.available | ~leaving.readback) & (
            self.record_credit.available | ~(leaving.signature & first_beat)
        )
        m.d.comb += [
            first_beat.eq(beats_left == rows),
            shift.eq(load_busy & (beats_left != 0) & operands & places),
            self.weights.ready.eq(shift),
            self.readback_credit.take.eq(shift & leaving.readback),
            self.record_credit.take.eq(shift & first_beat & leaving.signature),
        ]
        if self._config.fault_injection:
            m.d.comb += self.faults.ready.eq(shift & loading.masks)
        with m.If(shift):
            m.d.sync += beats_left.eq(beats_left - 1)
        with m.If(swap):
            m.d.sync += [load_busy.eq(0), running.eq(loading), leaving.eq(running)]
        with m.If(self.commands.valid & self.commands.ready):
            m.d.sync += [load_busy.eq(1), beats_left.eq(rows), loading.eq(self.commands.payload)]

        # Running: the first vector of a tile may go in the very cycle of its swap.
        present = Signal(Command)
        todo = Signal(16)
        m.d.comb += present.eq(running)
        m.d.comb += todo.eq(vectors_left)
        with m.If(swap):
            m.d.comb += [present.eq(loading), todo.eq(loading.vectors)]
        m.d.comb += [
            issue.eq((todo != 0) & self.activations.valid & (self.result_credit.available | ~present.last)),
            self.activations.ready.eq(issue),
            self.result_credit.take.eq(issue & present.last),
        ]
        m.d.sync += vectors_left.eq(todo - issue)
        m.d.sync += at_start.eq((at_start | swap) & ~issue)

        m.d.sync += [
            self.op.shift.eq(shift),
            self.op.swap.eq(swap),
            self.op.masks.eq(loading.masks),
            self.row_activations.eq(self.activations.payload),
            self.vector.valid.eq(issue),
            self.vector.start.eq(at_start | swap),
            self.vector.first.eq(present.first),
            self.vector.last.eq(present.last),
            self.scan.valid.eq(shift & (leaving.readback | leaving.signature)),
            self.scan.start.eq(first_beat),
            self.scanned.eq(leaving),
        ]
        for source, target in zip(self.weights.payload, self.col_words, strict=True):
            m.d.sync += [
                target.weight.eq(source.weight),
                target.invert.eq(source.invert),
                target.bypass.eq(source.bypass),
            ]
        if self._config.fault_injection:
            m.d.sync += self.col_faults.eq(self.faults.payload)

        settling = Signal(range(self._drain + 1))
        with m.If(shift | swap | issue):
            m.d.sync += settling.eq(self._drain)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        m.d.comb += self.working.eq(self.commands.valid | load_busy | (vectors_left != 0) | (settling != 0))
        return m
