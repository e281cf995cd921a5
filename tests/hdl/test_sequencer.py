"""The sequencer: which operations it issues, when, and that it waits for operands and for places in the output FIFOs."""

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from hdl.sequencer import Credit, Sequencer

DRAIN = 9
OUTPUTS = ("result", "readback", "record")


def words(values):
    return [{"weight": value, "invert": 0, "bypass": 0} for value in values]


class Trace:
    """Offers tiles to a sequencer and writes down what it does in each cycle.

    Parameters
    ----------
    tiles : list of dict, the fields of the commands.
    offers : function (stream name, cycle) -> bool, whether the stream has a beat; a beat once offered stays.
    credits : function (output name, cycle) -> bool, whether a place is free.
    """

    def __init__(self, hardware, config, tiles, *, cycles, offers=lambda name, cycle: True, credits=lambda name, cycle: True):
        self.dut = dut = Sequencer(config, drain=DRAIN)
        self.rows = []
        self.left = {
            "commands": [{"first": 1, "last": 1, **tile} for tile in tiles],
            "weights": list(range(1, 1 + config.rows * len(tiles))),
            "activations": list(range(1, 1 + sum(tile.get("vectors", 0) for tile in tiles))),
            "faults": list(range(1, 1 + config.rows * sum(tile.get("masks", 0) for tile in tiles))),
        }
        shown = {
            "commands": lambda beat: beat,
            "weights": lambda beat: words([beat] * config.cols),
            "activations": lambda beat: [beat] * config.rows,
            "faults": lambda beat: [{"sa0": beat, "sa1": 0}] * config.cols,
        }
        offered = dict.fromkeys(self.left, False)

        async def bench(ctx):
            for cycle in range(cycles):
                for name, beats in self.left.items():
                    stream = getattr(dut, name)
                    offered[name] = bool(beats) and (offered[name] or offers(name, cycle))
                    ctx.set(stream.valid, int(offered[name]))
                    if offered[name]:
                        ctx.set(stream.payload, shown[name](beats[0]))
                for name in OUTPUTS:
                    ctx.set(getattr(dut, f"{name}_credit").available, int(credits(name, cycle)))
                ready = {name: getattr(dut, name).ready for name in self.left}
                takes = {f"{name}_take": getattr(dut, f"{name}_credit").take for name in OUTPUTS}
                issued = {
                    "shift": dut.op.shift,
                    "swap": dut.op.swap,
                    "masks": dut.op.masks,
                    "vector": dut.vector.valid,
                    "start": dut.vector.start,
                    "first": dut.vector.first,
                    "last": dut.vector.last,
                    "activation": dut.row_activations[0],
                    "word": dut.col_words[0].weight,
                    "fault": dut.col_faults[0].sa0,
                    "scan": dut.scan.valid,
                    "scan_start": dut.scan.start,
                    "scanned": dut.scanned.vectors,
                    "working": dut.working,
                }
                probes = {**ready, **takes, **issued}
                _, _, *values = await ctx.tick().sample(*probes.values())
                row = dict(zip(probes, values, strict=True))
                for name, beats in self.left.items():
                    if offered[name] and row[name]:
                        beats.pop(0)
                        offered[name] = False
                self.rows.append(row)

        hardware.simulate(dut, bench)

    def cycles(self, name):
        """Return the cycles in which an operation was issued."""
        return [cycle for cycle, row in enumerate(self.rows) if row[name]]

    def values(self, name, when):
        return [row[name] for row in self.rows if row[when]]


def test_sim_one_tile(hardware):
    """The command, ``rows`` shifts, the swap with the first vector, the other vectors; each a register later at the array."""
    trace = Trace(hardware, ArrayConfig(rows=3, cols=2), [{"vectors": 4}], cycles=30)
    assert trace.cycles("shift") == [2, 3, 4]
    assert trace.cycles("swap") == [5]
    assert trace.cycles("vector") == [5, 6, 7, 8]
    assert trace.values("start", "vector") == [1, 0, 0, 0]
    assert trace.values("activation", "vector") == [1, 2, 3, 4]
    assert trace.values("word", "shift") == [1, 2, 3]
    assert trace.cycles("scan") == []
    assert trace.cycles("working") == list(range(8 + DRAIN))


def test_sim_no_bubble_between_tiles(hardware):
    """Tiles follow each other at the larger of their vectors and ``rows`` + 1 cycles."""
    vectors = [6, 4, 1, 0, 9, 3]
    trace = Trace(hardware, ArrayConfig(rows=3, cols=2), [{"vectors": n} for n in vectors], cycles=60)
    assert np.diff(trace.cycles("swap")).tolist() == [max(n, 4) for n in vectors[:-1]]
    assert len(trace.cycles("vector")) == sum(vectors)
    assert len(trace.values("start", "vector")) == 23
    assert [cycle for cycle, row in enumerate(trace.rows) if row["start"] and row["vector"]] == [
        swap for swap, n in zip(trace.cycles("swap"), vectors, strict=True) if n
    ]


@pytest.mark.parametrize("starved", ["weights", "activations", "faults"])
def test_sim_waits_for_operands(hardware, starved):
    """No operation without its operand: one stream comes every seventh cycle, nothing is issued in between."""
    tiles = [{"vectors": 2, "masks": 1}, {"vectors": 3, "masks": 1}]
    trace = Trace(
        hardware, ArrayConfig(rows=2, cols=1), tiles, cycles=120, offers=lambda name, cycle: name != starved or cycle % 7 == 0
    )
    assert not any(trace.left.values())
    issued = trace.cycles("vector" if starved == "activations" else "shift")
    # What is decided in a cycle shows at the array in the next.
    assert {(cycle - 1) % 7 for cycle in issued[1:]} <= {0}
    assert trace.values("word", "shift") == [1, 2, 3, 4]
    assert trace.values("fault", "shift") == [1, 2, 3, 4]
    assert trace.values("activation", "vector") == [1, 2, 3, 4, 5]


def test_sim_fault_stream_only_with_masks(hardware):
    """Tiles without ``masks`` take nothing from the fault stream, and their swap leaves the stuck bits."""
    tiles = [{"masks": 1}, {"masks": 0}, {"masks": 1}]
    trace = Trace(hardware, ArrayConfig(rows=2, cols=1), tiles, cycles=40)
    assert not trace.left["faults"]
    assert trace.values("masks", "swap") == [1, 0, 1]


def test_sim_waits_for_a_place_for_results(hardware):
    """Vectors of the last tile of a reduction wait for a credit, others need none."""
    tiles = [{"vectors": 3, "last": 0}, {"vectors": 3, "last": 1}]
    trace = Trace(
        hardware, ArrayConfig(rows=1, cols=1), tiles, cycles=60, credits=lambda name, cycle: name != "result" or cycle >= 30
    )
    assert trace.values("last", "vector") == [0, 0, 0, 1, 1, 1]
    assert trace.cycles("vector")[2] < 10
    assert trace.cycles("vector")[3] == 31
    assert trace.cycles("result_take") == [30, 31, 32]


@pytest.mark.parametrize(("output", "field"), [("readback", "readback"), ("record", "signature")])
def test_sim_waits_for_a_place_for_reports(hardware, output, field):
    """A shift that pushes a reported row out waits for a credit; a record takes one per tile, a readback one per row."""
    tiles = [{field: 1, "vectors": 5}, {}, {}, {}]
    trace = Trace(
        hardware, ArrayConfig(rows=3, cols=1), tiles, cycles=60, credits=lambda name, cycle: name != output or cycle >= 40
    )
    assert len(trace.cycles("shift")) == 12
    # Two tiles load without a credit; the third pushes the first one out.
    assert trace.cycles("shift")[5] < 20
    assert trace.cycles("shift")[6] == 41
    assert trace.cycles("scan") == trace.cycles("shift")[6:9]
    assert trace.values("scan_start", "scan") == [1, 0, 0]
    assert trace.values("scanned", "scan") == [5, 5, 5]
    assert trace.cycles(f"{output}_take") == ([40, 41, 42] if output == "readback" else [40])


def test_sim_random(hardware):
    """Whatever the streams do: never a shift and a swap at once, every operand once and in order, first and last as commanded."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        config = ArrayConfig(rows=int(rng.integers(1, 5)), cols=2)
        tiles = [
            {name: int(rng.integers(2)) for name in ("first", "last", "masks", "readback", "signature")}
            | {"vectors": int(rng.choice([0, 1, 2, 7]))}
            for _ in range(15)
        ]

        def moves(name, cycle, rng=rng):
            return rng.random() < 0.6

        trace = Trace(hardware, config, tiles, cycles=900, offers=moves, credits=moves)
        vectors = sum(tile["vectors"] for tile in tiles)
        assert not any(trace.left.values()), f"seed {seed}"
        assert not set(trace.cycles("shift")) & set(trace.cycles("swap"))
        assert trace.values("word", "shift") == list(range(1, 1 + 15 * config.rows))
        assert trace.values("activation", "vector") == [(n + 128) % 256 - 128 for n in range(1, 1 + vectors)]
        for field in ("first", "last"):
            assert trace.values(field, "vector") == [tile[field] for tile in tiles for _ in range(tile["vectors"])]
        assert trace.values("masks", "swap") == [tile["masks"] for tile in tiles]
        assert len(trace.cycles("readback_take")) == config.rows * sum(tile["readback"] for tile in tiles[:-2])
        assert len(trace.cycles("record_take")) == sum(tile["signature"] for tile in tiles[:-2])
        assert len(trace.cycles("result_take")) == sum(tile["vectors"] for tile in tiles if tile["last"])
        assert not trace.rows[-1]["working"]


def test_sim_credit(hardware):
    """Places are taken until none is free; one given back is available again."""
    credit = Credit(3)
    available = []

    async def bench(ctx):
        for take, give in [(1, 0), (1, 0), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (0, 1), (0, 1), (0, 0)]:
            ctx.set(credit.take, take)
            ctx.set(credit.give, give)
            _, _, free = await ctx.tick().sample(credit.available)
            available.append(free)

    hardware.simulate(credit, bench)
    assert available == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1]
