"""The signature unit: statistics of a tile's weights, taken while they are scanned out below the array."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.layouts import Command, ScanRecord, WeightWord
from hdl.pe import ChainWord
from hdl.sequencer import ScanTag
from hdl.shared import place_shared

__all__ = ["SignatureColumn", "SignatureUnit"]

COLUMN_MODULE = "signature_column"


class SignatureColumn(wiring.Component):
    """The counters of one column.

    Members
    -------
    weight : the code that leaves the column.
    counted : it belongs to the layer.
    valid, last_row : a row leaves; it is the tile's last one, after which counting starts anew.
    quartiles : the codes that the record counts against.
    record : ScanRecord with this row.
    """

    def __init__(self):
        super().__init__(
            {
                "weight": In(8),
                "counted": In(1),
                "valid": In(1),
                "last_row": In(1),
                "quartiles": In(data.ArrayLayout(8, 3)),
                "record": Out(ScanRecord),
            }
        )

    def elaborate(self, platform):
        m = Module()
        record = self.record
        so_far = Signal(ScanRecord)
        weight = self.weight.as_signed()
        m.d.comb += record.eq(so_far)
        with m.If(self.counted):
            m.d.comb += [
                record.zeros.eq(so_far.zeros + (weight == 0)),
                record.total.eq(so_far.total.as_signed() + weight),
                record.squares.eq(so_far.squares + (weight * weight).as_unsigned()),
            ]
            for count, before, quartile in zip(record.at_most, so_far.at_most, self.quartiles, strict=True):
                m.d.comb += count.eq(before + (weight <= quartile.as_signed()))
        with m.If(self.valid):
            m.d.sync += so_far.eq(Mux(self.last_row, 0, record))
        return m


class SignatureUnit(wiring.Component):
    """Count zeros, sum, sum of squares and codes not above each quartile, per column of each tile that leaves the array.

    A tile leaves bottom row first. Rows and columns that hold no weight of the layer (``rows``, ``cols`` of its command) are left
    out of the record; the readback has all of them.

    Members
    -------
    scan_issued, command : the tile's command, when its first row starts its way (``scan_issued.start``).
    scan : ScanTag of ``words``.
    words : ChainWord per column, from the array.
    record, record_valid : ScanRecord per column, with the tile's last row.
    readback, readback_valid : WeightWord per column, with every row of a tile whose command says ``readback``.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        cols = config.cols
        super().__init__(
            {
                "scan_issued": In(ScanTag),
                "command": In(Command),
                "scan": In(ScanTag),
                "words": In(data.ArrayLayout(ChainWord, cols)),
                "record": Out(data.ArrayLayout(ScanRecord, cols)),
                "record_valid": Out(1),
                "readback": Out(data.ArrayLayout(WeightWord, cols)),
                "readback_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows, cols = self._config.rows, self._config.cols

        # Commands of the tiles that are on their way down; a tile takes rows + 1 cycles to follow another.
        on_the_way = (rows + cols) // (rows + 1) + 2
        m.submodules.commands = commands = SyncFIFO(width=Command.as_shape().size, depth=on_the_way)
        command = data.View(Command, commands.r_data)
        m.d.comb += [
            commands.w_data.eq(self.command),
            commands.w_en.eq(self.scan_issued.valid & self.scan_issued.start),
        ]

        row = Signal(range(rows), init=rows - 1)
        counted = Signal()
        last_row = Signal()
        m.d.comb += [
            last_row.eq(self.scan.valid & (row == 0)),
            counted.eq(self.scan.valid & (row < command.rows)),
            commands.r_en.eq(last_row),
            self.record_valid.eq(last_row & command.signature),
            self.readback_valid.eq(self.scan.valid & command.readback),
        ]
        with m.If(self.scan.valid):
            m.d.sync += row.eq(Mux(row == 0, rows - 1, row - 1))

        for c in range(cols):
            word = self.words[c]
            column = place_shared(m, platform, f"column_{c}", COLUMN_MODULE, SignatureColumn)
            m.d.comb += [
                self.readback[c].weight.eq(word.weight),
                self.readback[c].invert.eq(word.invert),
                self.readback[c].bypass.eq(word.bypass),
                column.weight.eq(word.weight),
                column.counted.eq(counted & (c < command.cols)),
                column.valid.eq(self.scan.valid),
                column.last_row.eq(last_row),
                column.quartiles.eq(command.quartiles),
                self.record[c].eq(column.record),
            ]
        return m
