"""Words on the accelerator's streams. Every layout is a whole number of bytes, so each maps onto an AXI4-Stream ``tdata``."""

from amaranth.lib import data

__all__ = ["Command", "FaultWord", "ScanRecord", "WeightWord"]


class WeightWord(data.Struct):
    """A weight register's word, as it is loaded and as it is read back.

    ``weight`` int8 code, ``invert`` use the complement of the register, ``bypass`` use zero. On the way out ``weight`` is what the
    multiplier saw. 16 bits, the upper six unused.
    """

    weight: 8
    invert: 1
    bypass: 1
    reserved: 6


class FaultWord(data.Struct):
    """Stuck bits of one weight register: ``(weight & ~sa0) | sa1``. 16 bits."""

    sa0: 8
    sa1: 8


class Command(data.Struct):
    """One tile: what to load, what to run on it, and what to report when it is scanned out. 64 bits.

    Members
    -------
    vectors : activation vectors to run on the tile, 0..accumulator_depth.
    rows, cols : the part of the tile that holds weights of the layer; the signature unit leaves out the rest.
    first : the accumulators start anew (else they add).
    last : the sums leave on the result stream (else they stay).
    masks : a word of the fault stream comes with every weight word and replaces the stuck bits.
    readback : the tile's words leave on the readback stream when it is scanned out.
    signature : the tile's record leaves on the signature stream when it is scanned out.
    quartiles : the three codes that the record counts against.
    """

    vectors: 16
    rows: 7
    cols: 7
    first: 1
    last: 1
    masks: 1
    readback: 1
    signature: 1
    quartiles: data.ArrayLayout(8, 3)
    reserved: 5


class ScanRecord(data.Struct):
    """What the signature unit counted in one column of a tile. 64 bits.

    ``zeros`` zero codes, ``total`` sum of the codes (signed), ``squares`` sum of their squares, ``at_most`` codes not above each
    quartile of the command.
    """

    zeros: 7
    total: 15
    squares: 21
    at_most: data.ArrayLayout(7, 3)
