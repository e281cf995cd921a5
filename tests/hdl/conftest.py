"""Running components in Amaranth's simulator, and the accelerator as plain numpy to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.sim import Simulator

from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from hdl.layouts import Command, FaultWord, ScanRecord, WeightWord

CLOCK = 1e-6


def simulate(component, *benches, background=(), limit=20_000):
    """Run the benches on a clocked component; one that has not ended after ``limit`` cycles is an error."""
    simulator = Simulator(component)
    simulator.add_clock(CLOCK)
    ended = []

    def watched(bench):
        async def run(ctx):
            await bench(ctx)
            ended.append(bench)

        return run

    for bench in benches:
        simulator.add_testbench(watched(bench))
    for bench in background:
        simulator.add_testbench(bench, background=True)
    # Every call of advance() goes to the next edge of the clock.
    edges = 0
    while simulator.advance():
        edges += 1
        missing = [bench.__name__ for bench in benches if bench not in ended]
        assert edges < 2 * limit, f"{', '.join(missing)} did not end within {limit} cycles"


@dataclass
class Tile:
    """One tile: weight words and stuck bits as arrays (rows, cols), activation vectors int8 (M, rows), command fields."""

    words: WeightWords
    vectors: np.ndarray
    stuck: StuckBits | None = None  # None: the command does not say ``masks``
    first: bool = True
    last: bool = True
    readback: bool = False
    signature: bool = False
    quartiles: tuple[int, int, int] = (0, 0, 0)
    used_rows: int = 0
    used_cols: int = 0

    def command(self) -> dict:
        """Return the fields of the command."""
        return {
            "vectors": len(self.vectors),
            "rows": self.used_rows,
            "cols": self.used_cols,
            "first": self.first,
            "last": self.last,
            "masks": self.stuck is not None,
            "readback": self.readback,
            "signature": self.signature,
            "quartiles": [q % 256 for q in self.quartiles],
        }


@dataclass
class Expected:
    """What a sequence of tiles puts out: beats as lists of plain Python values."""

    results: list = field(default_factory=list)
    readback: list = field(default_factory=list)
    signatures: list = field(default_factory=list)


def plain_tile(config: ArrayConfig, **fields) -> Tile:
    """Return a tile of zeros without vectors, as what pushes others out."""
    words = WeightWords.plain(np.zeros((config.rows, config.cols), np.int8))
    return Tile(**{"words": words, "vectors": np.zeros((0, config.rows), np.int8), **fields})


def random_tile(rng, config: ArrayConfig, *, vectors: int, **fields) -> Tile:
    """Return a tile of random words, flags, stuck bits (on every other tile, where the array has them) and vectors."""
    shape = config.rows, config.cols
    code = rng.integers(-128, 128, shape).astype(np.int8)
    code[rng.random(shape) < 0.2] = 0
    stuck = None
    if config.fault_injection and rng.random() < 0.5:
        sa0 = rng.integers(0, 256, shape).astype(np.uint8) & rng.integers(0, 256, shape).astype(np.uint8)
        stuck = StuckBits(sa0, rng.integers(0, 256, shape).astype(np.uint8) & ~sa0)
    return Tile(
        words=WeightWords(code, rng.random(shape) < 0.25, rng.random(shape) < 0.25),
        vectors=rng.integers(-128, 128, (vectors, config.rows)).astype(np.int8),
        stuck=stuck,
        readback=bool(rng.random() < 0.5),
        signature=bool(rng.random() < 0.5),
        quartiles=tuple(int(q) for q in np.sort(rng.integers(-128, 128, 3))),
        used_rows=int(rng.integers(0, config.rows + 1)),
        used_cols=int(rng.integers(0, config.cols + 1)),
        **fields,
    )


def expect(config: ArrayConfig, tiles: list[Tile]) -> Expected:
    """Return what the accelerator has to put out for a sequence of tiles, from reset: the golden definition, slow and plain."""
    none = np.zeros((config.rows, config.cols), np.uint8)
    registers = StuckBits(none, none)
    memory = np.zeros((config.accumulator_depth, config.cols), np.int64)
    expected = Expected()
    seen_tiles = []
    for index, tile in enumerate(tiles):
        if tile.stuck is not None:
            registers = tile.stuck
        flags = tile.words if config.repair else WeightWords.plain(tile.words.code)
        seen = seen_by_multiplier(flags, registers)
        seen_tiles.append((tile, flags, seen))
        for m, vector in enumerate(tile.vectors):
            total = config.multiplier.multiply(vector[:, None], seen).sum(axis=0) + (0 if tile.first else memory[m])
            if tile.last:
                expected.results.append([int(value) for value in total])
            else:
                memory[m] = total
        if index >= 2:
            _report(expected, *seen_tiles[index - 2])
    return expected


def _report(expected: Expected, tile: Tile, flags: WeightWords, seen: np.ndarray) -> None:
    if tile.readback:
        for row in reversed(range(len(seen))):
            words = zip(seen[row], flags.invert[row], flags.bypass[row], strict=True)
            expected.readback.append([word_value(*word) for word in words])
    if tile.signature:
        expected.signatures.append([])
        for col in range(seen.shape[1]):
            codes = seen[: tile.used_rows, col].astype(int) if col < tile.used_cols else np.zeros(0, int)
            record = {
                "zeros": int((codes == 0).sum()),
                "total": int(codes.sum()) % (1 << 15),
                "squares": int((codes**2).sum()),
                "at_most": [int((codes <= quartile).sum()) for quartile in tile.quartiles],
            }
            expected.signatures[-1].append(ScanRecord.const(record).as_value().value)


def word_value(code, invert=False, bypass=False) -> int:
    """Return a weight word as the integer on the stream."""
    return WeightWord.const({"weight": int(code) % 256, "invert": int(invert), "bypass": int(bypass)}).as_value().value


def fault_value(sa0, sa1) -> int:
    """Return a fault word as the integer on the stream."""
    return FaultWord.const({"sa0": int(sa0), "sa1": int(sa1)}).as_value().value


def command_value(fields: dict) -> int:
    """Return a command as the integer on the stream."""
    return Command.const({name: int(v) if name != "quartiles" else v for name, v in fields.items()}).as_value().value


@pytest.fixture(scope="session")
def hardware():
    """Return the helpers of this folder by name."""
    names = (simulate, Tile, Expected, plain_tile, random_tile, expect, word_value, fault_value, command_value)
    return SimpleNamespace(**{entry.__name__: entry for entry in names})
