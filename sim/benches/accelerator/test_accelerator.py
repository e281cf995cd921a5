"""The accelerator through its streams: results, readback, records and cycles of random tile sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from epsilon.config import ArrayConfig
from sim import cycles
from sim.benches.golden import AcceleratorModel, TileCommand, random_words
from sim.benches.runner import CONFIG_VARIABLE, GOLDEN_VARIABLE, config_of
from sim.benches.streams import PAUSES, StreamBench
from sim.program import Program, Run, command_beats, records_of, tile_beats

#: No program here takes longer, even with the longest pauses.
MAX_CYCLES = 20_000


@dataclass(frozen=True, eq=False)
class Tile:
    """One tile: its command, words and stuck bits uint16 (rows, cols), and vectors int8 (vectors, rows)."""

    command: TileCommand
    words: np.ndarray
    faults: np.ndarray
    vectors: np.ndarray


@cocotb.test()
@cocotb.parametrize(idle=tuple(PAUSES), back_pressure=tuple(PAUSES))
async def any_tiles(dut, idle, back_pressure):
    """Random sequences of tiles, sources idle and sinks holding back."""
    bench, model, rng = await _start(dut, tuple(PAUSES).index(idle), tuple(PAUSES).index(back_pressure))
    bench.pause(idle=idle, back_pressure=back_pressure)
    for _ in range(5):
        await _run(bench, model, _random_tiles(rng, bench.config, reductions=4))
    bench.assert_drained()


@cocotb.test()
async def cycles_are_those_of_the_model(dut):
    """The cycle counter equals the closed form when no stream makes the accelerator wait."""
    bench, model, rng = await _start(dut, 100)
    for reductions in range(1, 9):
        tiles = _random_tiles(rng, bench.config, reductions)
        run = await _run(bench, model, tiles)
        expected = cycles.program_cycles(bench.config, [len(tile.vectors) for tile in tiles])
        assert run.busy_cycles == expected, f"{run.busy_cycles} cycles, {expected} by the model"
    bench.assert_drained()


@cocotb.test()
async def full_accumulators(dut):
    """Tiles that use every word of the accumulators, and tiles of a single vector, in turns."""
    bench, model, rng = await _start(dut, 101)
    depth = bench.config.accumulator_depth
    for vectors in (depth, 1, depth, 1, 1):
        await _run(bench, model, _reduction(rng, bench.config, tiles=4, vectors=vectors))
    bench.assert_drained()


@cocotb.test()
async def reset_in_the_middle(dut):
    """A reset while tiles run leaves an idle accelerator without stuck bits."""
    bench, model, rng = await _start(dut, 102)
    await _run(bench, model, _random_tiles(rng, bench.config, reductions=2))
    bench.send(_program(_random_tiles(rng, bench.config, reductions=4), results=0, readback=0, signatures=0))
    await ClockCycles(dut.clk, 25)
    assert dut.busy.value == 1, "the reset comes too late to test anything"
    await bench.reset()
    assert bench.cycles == 0, "the cycle counter is not reset"
    bench.assert_drained()
    model = AcceleratorModel(config_of(GOLDEN_VARIABLE))
    await _run(bench, model, _without_masks(_random_tiles(rng, bench.config, reductions=6)))
    bench.assert_drained()


async def _start(dut, *seed: int) -> tuple[StreamBench, AcceleratorModel, np.random.Generator]:
    bench = StreamBench(dut, config_of(CONFIG_VARIABLE))
    await bench.reset()
    return bench, AcceleratorModel(config_of(GOLDEN_VARIABLE)), np.random.default_rng([cocotb.RANDOM_SEED, *seed])


def _random_tiles(rng: np.random.Generator, config: ArrayConfig, reductions: int) -> list[Tile]:
    """Return tiles of some reductions, and between them tiles that only load."""
    tiles = []
    for _ in range(reductions):
        tiles += _reduction(rng, config, int(rng.integers(1, 4)), int(rng.integers(1, config.accumulator_depth + 1)))
        tiles += [_tile(rng, config, vectors=0) for _ in range(rng.integers(0, 3))]
    return tiles


def _reduction(rng: np.random.Generator, config: ArrayConfig, tiles: int, vectors: int) -> list[Tile]:
    return [_tile(rng, config, vectors=vectors, first=index == 0, last=index == tiles - 1) for index in range(tiles)]


def _without_masks(tiles: list[Tile]) -> list[Tile]:
    """Return the tiles with the stuck bits left as they are."""
    return [replace(tile, command=TileCommand(tile.command, masks=0)) for tile in tiles]


def _tile(rng: np.random.Generator, config: ArrayConfig, vectors: int, *, first: bool = False, last: bool = False) -> Tile:
    shape = (config.rows, config.cols)
    masks, readback, signature = (int(flag) for flag in rng.integers(0, 2, 3))
    command = TileCommand(
        vectors=vectors,
        rows=int(rng.integers(1, config.rows + 1)),
        cols=int(rng.integers(1, config.cols + 1)),
        first=int(first),
        last=int(last),
        masks=masks,
        readback=readback,
        signature=signature,
        quartiles=tuple(int(code) for code in np.sort(rng.integers(-128, 128, 3))),
    )
    # Without masks no stuck bits are sent, and what the chain holds must not matter.
    faults = (1 << rng.integers(0, 16, shape)).astype(np.uint16) if masks else np.zeros(shape, np.uint16)
    return Tile(command, random_words(rng, shape), faults, rng.integers(-128, 128, (vectors, config.rows)).astype(np.int8))


def _program(tiles: list[Tile], *, results: int, readback: int, signatures: int) -> Program:
    masked = [tile.faults for tile in tiles if tile.command["masks"]]
    cols = tiles[0].words.shape[1]
    return Program(
        commands=np.concatenate([command_beats(**tile.command) for tile in tiles]),
        weights=tile_beats(np.array([tile.words for tile in tiles])),
        activations=np.concatenate([tile.vectors for tile in tiles]).view(np.uint8),
        faults=tile_beats(np.array(masked)) if masked else np.zeros((0, 2 * cols), np.uint8),
        results=results,
        readback=readback,
        signatures=signatures,
    )


async def _run(bench: StreamBench, model: AcceleratorModel, tiles: list[Tile]) -> Run:
    """Run tiles on both; compare everything that comes out."""
    model.results, model.readback, model.records = [], [], []
    for tile in tiles:
        model.tile(tile.command, tile.words, tile.faults, tile.vectors)
    counts = {"results": len(model.results), "readback": len(model.readback), "signatures": len(model.records)}
    run = await bench.run(_program(tiles, **counts), max_cycles=MAX_CYCLES)
    cols = bench.config.cols
    _assert_equal("results", run.results.view("<i4").reshape(-1, cols), model.results)
    _assert_equal("readback", run.readback.view("<u2").reshape(-1, cols), model.readback)
    for name, values in records_of(bench.config, run.signatures).items():
        _assert_equal(name, values, [record[name] for record in model.records])
    return run


def _assert_equal(what: str, got: np.ndarray, expected: list[np.ndarray]) -> None:
    if expected:
        different = np.argwhere(got != np.array(expected))
        assert not len(different), f"{len(different)} {what} are wrong, the first at {different[0]} (beat, column)"
