"""The words on the streams: frozen, for they are what a driver outside this project has to know."""

import pytest
from amaranth.hdl import Shape

from hdl.layouts import Command, FaultWord, ScanRecord, WeightWord

OFFSETS = {
    Command: {
        "vectors": 0,
        "rows": 16,
        "cols": 23,
        "first": 30,
        "last": 31,
        "masks": 32,
        "readback": 33,
        "signature": 34,
        "quartiles": 35,
    },
    WeightWord: {"weight": 0, "invert": 8, "bypass": 9},
    FaultWord: {"sa0": 0, "sa1": 8},
    ScanRecord: {"zeros": 0, "total": 7, "squares": 22, "at_most": 43},
}


@pytest.mark.parametrize("word", OFFSETS, ids=lambda word: word.__name__)
def test_offsets(word):
    layout = word.as_shape()
    assert {name: layout[name].offset for name in OFFSETS[word]} == OFFSETS[word]


@pytest.mark.parametrize(("word", "bits"), [(Command, 64), (WeightWord, 16), (FaultWord, 16), (ScanRecord, 64)])
def test_whole_bytes(word, bits):
    assert Shape.cast(word).width == bits
