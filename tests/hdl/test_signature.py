"""The signature unit: what it counts of a tile's words while they leave, against numpy."""

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from hdl.signature import SignatureUnit


def run(hardware, config, tiles, *, distance=2, rng=None):
    """Let tiles of (fields of the command, codes (rows, cols), flags (rows, cols)) leave, bottom row first.

    ``distance`` is the number of cycles from the announcement of a row until it leaves; with ``rng`` rows pause at random.
    """
    unit = SignatureUnit(config)
    rows, cols = config.rows, config.cols
    schedule = []
    for index in range(len(tiles)):
        for row in reversed(range(rows)):
            schedule += [None] * (0 if rng is None else int(rng.choice([0, 0, 1, 4])))
            schedule.append((index, row))
        schedule.append(None)  # the swap between two tiles
    records, readback = [], []

    async def bench(ctx):
        for cycle in range(len(schedule) + distance):
            issued = schedule[cycle] if cycle < len(schedule) else None
            leaving = schedule[cycle - distance] if cycle >= distance else None
            ctx.set(
                unit.scan_issued, {"valid": int(issued is not None), "start": int(issued is not None and issued[1] == rows - 1)}
            )
            if issued is not None:
                ctx.set(unit.command, tiles[issued[0]][0])
            ctx.set(unit.scan, {"valid": int(leaving is not None), "start": int(leaving is not None and leaving[1] == rows - 1)})
            index, row = leaving or (0, 0)
            _, codes, flags = tiles[index]
            ctx.set(
                unit.words,
                [
                    {"weight": int(codes[row, c]) % 256, "invert": int(flags[row, c]) & 1, "bypass": int(flags[row, c]) >> 1}
                    for c in range(cols)
                ],
            )
            sampled = await ctx.tick().sample(unit.record_valid, unit.readback_valid, unit.record, unit.readback)
            _, _, record_valid, readback_valid, record, words = sampled
            if record_valid:
                assert leaving is not None
                assert leaving[1] == 0, "a record before the tile's last row"
                records.append((leaving[0], [_fields(record[c]) for c in range(cols)]))
            if readback_valid:
                readback.append((leaving, [(words[c].weight, words[c].invert, words[c].bypass) for c in range(cols)]))

    hardware.simulate(unit, bench)
    return records, readback


def _fields(record):
    at_most = [record.at_most[q] for q in range(3)]
    return {"zeros": record.zeros, "total": record.total, "squares": record.squares, "at_most": at_most}


def golden(command, codes):
    """Return the record of every column, in plain numpy."""
    records = []
    for col in range(codes.shape[1]):
        part = codes[: command["rows"], col].astype(int) if col < command["cols"] else np.zeros(0, int)
        quartiles = [q - 256 if q > 127 else q for q in command["quartiles"]]
        records.append(
            {
                "zeros": int((part == 0).sum()),
                "total": int(part.sum()) % (1 << 15),
                "squares": int((part**2).sum()),
                "at_most": [int((part <= quartile).sum()) for quartile in quartiles],
            }
        )
    return records


def command(**fields):
    return {"rows": 0, "cols": 0, "readback": 0, "signature": 1, "quartiles": [0, 0, 0], **fields}


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 3), (3, 1), (2, 2), (5, 4)])
@pytest.mark.parametrize("distance", [1, 2, 7])
def test_sim_random_tiles(hardware, rows, cols, distance):
    rng = np.random.default_rng([rows, cols, distance])
    tiles = []
    for _ in range(12):
        fields = command(
            rows=int(rng.integers(0, rows + 1)),
            cols=int(rng.integers(0, cols + 1)),
            readback=int(rng.integers(2)),
            signature=int(rng.integers(2)),
            quartiles=[int(q) for q in rng.integers(0, 256, 3)],
        )
        codes = rng.choice([-128, -1, 0, 1, 127, int(rng.integers(-128, 128))], (rows, cols))
        tiles.append((fields, codes, rng.integers(0, 4, (rows, cols))))
    # Only tiles that report something are announced.
    tiles = [tile for tile in tiles if tile[0]["readback"] or tile[0]["signature"]]
    distance = min(distance, rows + cols)
    records, readback = run(hardware, ArrayConfig(rows=rows, cols=cols), tiles, distance=distance, rng=rng)
    assert records == [(i, golden(f, codes)) for i, (f, codes, _) in enumerate(tiles) if f["signature"]]
    assert readback == [
        ((i, row), [(int(codes[row, c]) % 256, int(flags[row, c]) & 1, int(flags[row, c]) >> 1) for c in range(cols)])
        for i, (f, codes, flags) in enumerate(tiles)
        for row in reversed(range(rows))
        if f["readback"]
    ]


@pytest.mark.parametrize("code", [-128, 0, 127])
def test_sim_extremes_fit(hardware, code):
    """The tallest array, full of one code: no field overflows."""
    fields = command(rows=64, cols=1, quartiles=[127, 127, 127])
    codes = np.full((64, 1), code)
    records, _ = run(hardware, ArrayConfig(rows=64, cols=1), [(fields, codes, np.zeros((64, 1), int))] * 2)
    expected = {
        "zeros": 64 * (code == 0),
        "total": 64 * code % (1 << 15),
        "squares": 64 * code * code,
        "at_most": [64, 64, 64],
    }
    assert records == [(0, [expected]), (1, [expected])]
