# amaranth: UnusedElaboratable=no
"""The array: skew, latency, the scan swap and every stuck bit of every PE."""

import itertools

import numpy as np
import pytest

from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from hdl.array import SystolicArray

SHAPES = [(1, 1), (1, 3), (3, 1), (2, 2), (3, 4)]


class Driver:
    """Gives the array one operation a cycle and remembers what came out in each cycle."""

    def __init__(self, ctx, array):
        self.ctx = ctx
        self.array = array
        self.config = array.config
        self.psums = []
        self.chain = []

    async def step(self, *, op=None, activations=None, row=None, faults=None):
        """Do one cycle: an operation, an activation vector, a row of words and of stuck bits; each zero if not given."""
        ctx, array, cols = self.ctx, self.array, self.config.cols
        ctx.set(array.op, {"shift": 0, "swap": 0, "masks": 0, **(op or {})})
        ctx.set(array.activations, [int(a) for a in (activations if activations is not None else [0] * self.config.rows)])
        ctx.set(array.chain_i, row or [{"weight": 0, "invert": 0, "bypass": 0}] * cols)
        if self.config.fault_injection:
            ctx.set(array.faults_i, faults or [{"sa0": 0, "sa1": 0}] * cols)
        _, _, psums, chain = await ctx.tick().sample(array.psums.as_value(), array.chain_o.as_value())
        self.psums.append(psums)
        self.chain.append(chain)

    async def load(self, words, stuck=None):
        """Shift a tile in, bottom row first, and swap it in."""
        for r in reversed(range(self.config.rows)):
            row = [
                {"weight": int(code) % 256, "invert": int(invert), "bypass": int(bypass)}
                for code, invert, bypass in zip(words.code[r], words.invert[r], words.bypass[r], strict=True)
            ]
            faults = None
            if stuck is not None:
                faults = [{"sa0": int(a), "sa1": int(b)} for a, b in zip(stuck.sa0[r], stuck.sa1[r], strict=True)]
            await self.step(op={"shift": 1}, row=row, faults=faults)
        await self.step(op={"swap": 1, "masks": int(stuck is not None)})

    async def run(self, vectors):
        """Put vectors in, one a cycle; return the sums of exactly ``latency`` cycles later, int64 (M, cols)."""
        start = len(self.psums)
        for vector in vectors:
            await self.step(activations=vector)
        await self.drain()
        return self.sums(start, len(vectors))

    def sums(self, start, count):
        """Return the sums of the vectors that entered in ``count`` cycles from ``start``, int64 (count, cols)."""
        at = start + self.array.latency
        return np.array([self._split(value, 32) for value in self.psums[at : at + count]])

    async def scan_out(self):
        """Swap, shift everything out and return it: weight (rows, cols) as uint8, invert, bypass; zeros take the place."""
        await self.step(op={"swap": 1})
        start = len(self.chain)
        for _ in range(self.config.rows):
            await self.step(op={"shift": 1})
        await self.drain()
        at = start + self.array.latency - 1
        words = np.array([self._split(value, 10, is_signed=False) for value in self.chain[at : at + self.config.rows]])[::-1]
        return (words & 0xFF).astype(np.uint8), words >> 8 & 1, words >> 9 & 1

    async def drain(self):
        for _ in range(self.array.latency + 1):
            await self.step()

    def _split(self, value, width, *, is_signed=True):
        parts = [value >> (width * c) & ((1 << width) - 1) for c in range(self.config.cols)]
        return [part - (1 << width) if is_signed and part >> (width - 1) else part for part in parts]


def run(hardware, config, scenario):
    array = SystolicArray(config)

    async def bench(ctx):
        await scenario(Driver(ctx, array))

    hardware.simulate(array, bench)


def golden(config, vectors, seen):
    return config.multiplier.multiply(np.asarray(vectors)[:, :, None], seen[None]).sum(axis=1)


def random_words(rng, shape, flags=True):
    code = rng.integers(-128, 128, shape).astype(np.int8)
    if not flags:
        return WeightWords.plain(code)
    return WeightWords(code, rng.random(shape) < 0.3, rng.random(shape) < 0.3)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_sim_tiles(hardware, rows, cols):
    """Random words, flags and stuck bits: the sums, and every word as the multiplier saw it."""
    config = ArrayConfig(rows=rows, cols=cols)
    rng = np.random.default_rng(rows * 10 + cols)

    async def scenario(array):
        for _ in range(4):
            words = random_words(rng, (rows, cols))
            stuck = StuckBits(*rng.integers(0, 256, (2, rows, cols)).astype(np.uint8))
            seen = seen_by_multiplier(words, stuck)
            vectors = rng.integers(-128, 128, (7, rows))
            await array.load(words, stuck)
            assert np.array_equal(await array.run(vectors), golden(config, vectors, seen))
            codes, invert, bypass = await array.scan_out()
            assert np.array_equal(codes, seen.view(np.uint8))
            assert np.array_equal(invert, words.invert)
            assert np.array_equal(bypass, words.bypass)

    run(hardware, config, scenario)


@pytest.mark.parametrize("polarity", [0, 1])
@pytest.mark.parametrize("position", list(itertools.product(range(2), repeat=2)))
def test_sim_every_stuck_bit_of_every_pe(hardware, position, polarity):
    """One stuck bit in the array: the column's sums are wrong by exactly that, the other columns' are right."""
    config = ArrayConfig(rows=2, cols=2)
    words = WeightWords.plain(np.array([[0x55, -0x56], [-0x56, 0x55]], np.int8))
    vectors = np.array([[104, 88], [-77, 16], [0, 127]])

    async def scenario(array):
        for bit in range(8):
            masks = np.zeros((2, 2, 2), np.uint8)
            masks[(polarity, *position)] = 1 << bit
            stuck = StuckBits(*masks)
            seen = seen_by_multiplier(words, stuck)
            await array.load(words, stuck)
            sums = await array.run(vectors)
            assert np.array_equal(sums, golden(config, vectors, seen))
            codes, _, _ = await array.scan_out()
            assert np.array_equal(codes, seen.view(np.uint8))
            healthy = golden(config, vectors, words.code)
            assert np.array_equal(sums[:, 1 - position[1]], healthy[:, 1 - position[1]])
            had_it = bool(words.code[position] >> bit & 1) == bool(polarity)
            assert (codes == words.code.view(np.uint8)).all() == had_it

    run(hardware, config, scenario)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_sim_latency(hardware, rows, cols):
    """A single vector's sums appear after exactly ``rows + cols`` cycles, in all columns at once, and only once."""
    config = ArrayConfig(rows=rows, cols=cols, multiplier="KV6")

    async def scenario(array):
        assert array.array.latency == rows + cols
        await array.load(WeightWords.plain(np.ones((rows, cols), np.int8)), StuckBits(*np.zeros((2, rows, cols), np.uint8)))
        await array.drain()
        start = len(array.psums)
        await array.step(activations=[3] * rows)
        for _ in range(2 * (rows + cols)):
            await array.step()
        sums = {cycle - start: value for cycle, value in enumerate(array.psums) if cycle >= start and value}
        assert sums == {rows + cols: sum(3 * rows << 32 * c for c in range(cols))}

    run(hardware, config, scenario)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_sim_tiles_follow_without_bubble(hardware, rows, cols):
    """The next tile shifts in while vectors run; the vector in the cycle of the swap is the first to meet the new weights."""
    config = ArrayConfig(rows=rows, cols=cols)
    rng = np.random.default_rng(5)
    tiles = [random_words(rng, (rows, cols)) for _ in range(4)]
    vectors = rng.integers(-128, 128, (4, rows + 1, rows))

    async def scenario(array):
        none = StuckBits(*np.zeros((2, rows, cols), np.uint8))
        await array.load(tiles[0], none)
        await array.drain()
        start = len(array.psums)
        await array.step(activations=vectors[0][0])
        for index in range(4):
            following = tiles[index + 1] if index < 3 else WeightWords.plain(np.zeros((rows, cols), np.int8))
            for r in range(rows):
                # While the last of the tile's vectors run, the next tile's rows enter.
                row = rows - 1 - r
                word = zip(following.code[row], following.invert[row], following.bypass[row], strict=True)
                beat = [{"weight": int(w) % 256, "invert": int(i), "bypass": int(b)} for w, i, b in word]
                await array.step(op={"shift": 1}, row=beat, activations=vectors[index][r + 1])
            if index < 3:
                await array.step(op={"swap": 1}, activations=vectors[index + 1][0])
        await array.drain()
        sums = array.sums(start, 4 * (rows + 1)).reshape(4, rows + 1, cols)
        for tile, inputs, outputs in zip(tiles, vectors, sums, strict=True):
            assert np.array_equal(outputs, golden(config, inputs, seen_by_multiplier(tile, None)))

    run(hardware, config, scenario)


def test_sim_without_fault_injection(hardware):
    config = ArrayConfig(rows=2, cols=3, fault_injection=False)
    rng = np.random.default_rng(9)
    array = SystolicArray(config)
    assert not hasattr(array, "faults_i")

    async def scenario(array):
        words = random_words(rng, (2, 3))
        seen = seen_by_multiplier(words, None)
        vectors = rng.integers(-128, 128, (5, 2))
        await array.load(words)
        assert np.array_equal(await array.run(vectors), golden(config, vectors, seen))
        assert np.array_equal((await array.scan_out())[0], seen.view(np.uint8))

    run(hardware, config, scenario)
