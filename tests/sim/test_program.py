"""Beats of the streams: equal to the hardware's own layouts, and each way back is the inverse of the way there."""

import numpy as np
import pytest

from epsilon.accelerator import StuckBits, WeightWords
from epsilon.config import ArrayConfig
from hdl.layouts import Command, FaultWord, ScanRecord, WeightWord
from sim import program
from sim.tiling import Gemm, tiles, weight_tiles

GEMMS = [Gemm(1, 1, 1, 1), Gemm(1, 5, 7, 9), Gemm(3, 2, 4, 5), Gemm(2, 6, 3, 4)]
CONFIG = ArrayConfig(rows=3, cols=2, accumulator_depth=4)


def value(word, fields):
    return word.const(fields).as_value().value


def test_command_beats_equal_layout():
    fields = {"vectors": 513, "rows": 64, "cols": 3, "first": 1, "last": 0, "masks": 1, "readback": 0, "signature": 1}
    beats = program.command_beats(**{name: np.array([v, 0]) for name, v in fields.items()}, quartiles=(-128, -1, 127))
    quartiles = [128, 255, 127]
    assert int.from_bytes(beats[0].tobytes(), "little") == value(Command, {**fields, "quartiles": quartiles})
    assert int.from_bytes(beats[1].tobytes(), "little") == value(Command, {"quartiles": quartiles})


def test_weight_and_fault_beats_equal_layout():
    """Columns from the low bits on, the bottom row first, what lies outside the matrix zero."""
    rng = np.random.default_rng(0)
    code = rng.integers(-128, 128, (3, 4)).astype(np.int8)
    words = WeightWords(code, rng.random((3, 4)) < 0.5, rng.random((3, 4)) < 0.5)
    stuck = StuckBits(*rng.integers(0, 256, (2, 3, 4)).astype(np.uint8))
    gemm = Gemm(1, 3, 4, 1)
    weights = program.weight_beats(CONFIG, gemm, words)
    faults = program.fault_beats(CONFIG, gemm, stuck)
    assert weights.shape == faults.shape == (4 * 3, 2 * 2)
    for index, tile in enumerate(weight_tiles(CONFIG, gemm)):
        for row in range(3):
            at = index * 3 + 2 - row
            expected = [0, 0], [0, 0]
            for col in range(2):
                n, k = tile.n0 + col, tile.k0 + row
                if n < tile.n1 and k < tile.k1:
                    word = {"weight": int(code[n, k]) % 256, "invert": int(words.invert[n, k]), "bypass": int(words.bypass[n, k])}
                    expected[0][col] = value(WeightWord, word)
                    expected[1][col] = value(FaultWord, {"sa0": int(stuck.sa0[n, k]), "sa1": int(stuck.sa1[n, k])})
            assert weights[at].view("<u2").tolist() == expected[0]
            assert faults[at].view("<u2").tolist() == expected[1]


@pytest.mark.parametrize("gemm", GEMMS, ids=str)
def test_join_matrix_inverts_split(gemm):
    matrix = np.arange(gemm.groups * gemm.outputs * gemm.reduction).reshape(-1, gemm.reduction) + 1
    split = program.split_matrix(CONFIG, gemm, matrix)
    assert len(split) == len(list(weight_tiles(CONFIG, gemm)))
    assert np.array_equal(program.join_matrix(CONFIG, gemm, split), matrix)


@pytest.mark.parametrize("gemm", GEMMS, ids=str)
def test_activation_beats_follow_tiles(gemm):
    rng = np.random.default_rng(1)
    vectors = rng.integers(-128, 128, (2, gemm.groups, gemm.vectors, gemm.reduction)).astype(np.int8)
    beats = program.activation_beats(CONFIG, gemm, vectors).view(np.int8)
    expected = []
    for image in vectors:
        for tile in tiles(CONFIG, gemm):
            for m in range(tile.m0, tile.m1):
                part = image[tile.group, m, tile.k0 : tile.k1]
                expected.append([*part, *[0] * (CONFIG.rows - len(part))])
    assert np.array_equal(beats, expected)


@pytest.mark.parametrize("gemm", GEMMS, ids=str)
def test_join_accumulators_follows_tiles(gemm):
    sums = np.arange(2 * gemm.groups * gemm.outputs * gemm.vectors, dtype=np.int32).reshape(2, -1, gemm.vectors)
    beats = []
    for image in sums:
        for tile in tiles(CONFIG, gemm):
            for m in range(tile.m0, tile.m1) if tile.last else ():
                first = tile.group * gemm.outputs
                part = image[first + tile.n0 : first + tile.n1, m]
                beats.append([*part, *[-1] * (CONFIG.cols - len(part))])
    results = np.array(beats, dtype="<i4").view(np.uint8)
    assert np.array_equal(program.join_accumulators(CONFIG, gemm, results, 2), sums)


def test_records_of_equals_layout():
    records = [
        [{"zeros": 64, "total": (-8192) % 2**15, "squares": 2**20, "at_most": [0, 64, 1]}, {}],
        [{"total": 8128, "at_most": [3, 2, 1]}, {"zeros": 1}],
    ]
    beats = np.array([[value(ScanRecord, record) for record in row] for row in records], dtype="<u8").view(np.uint8)
    found = program.records_of(CONFIG, beats)
    assert found["zeros"].tolist() == [[64, 0], [0, 1]]
    assert found["total"].tolist() == [[-8192, 0], [8128, 0]]
    assert found["total_squares"].tolist() == [[2**20, 0], [0, 0]]
    assert found["at_most"].tolist() == [[[0, 64, 1], [0, 0, 0]], [[3, 2, 1], [0, 0, 0]]]
