"""The accumulators: sums of the same vector over the tiles of a reduction, one vector per cycle."""

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from hdl.accumulator import Accumulators


def run(hardware, config, beats):
    """Put in (start, first, last, psums) a cycle, None for an idle one; return the finished sums by the cycle they appear in."""
    accumulators = Accumulators(config)
    finished = {}

    async def bench(ctx):
        for cycle, beat in enumerate([*beats, None, None]):
            start, first, last, psums = beat or (1, 1, 1, [77] * config.cols)
            ctx.set(accumulators.tag, {"valid": int(beat is not None), "start": start, "first": first, "last": last})
            ctx.set(accumulators.psums, psums)
            _, _, valid, sums = await ctx.tick().sample(accumulators.o_valid, accumulators.o)
            if valid:
                finished[cycle] = [sums[col] for col in range(config.cols)]

    hardware.simulate(accumulators, bench)
    return finished


@pytest.mark.parametrize(("cols", "depth"), [(1, 1), (1, 2), (3, 5), (2, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_sim_random_reductions(hardware, cols, depth, seed):
    """Reductions of up to four tiles, with idle cycles; each finished sum one cycle after its last part."""
    rng = np.random.default_rng(seed)
    beats, expected = [], {}
    for _ in range(12):
        tiles, vectors = int(rng.integers(1, 5)), int(rng.integers(1, depth + 1))
        totals = np.zeros((vectors, cols), np.int64)
        for tile in range(tiles):
            for vector in range(vectors):
                beats += [None] * int(rng.choice([0, 0, 0, 1, 3]))
                psums = rng.integers(-(2**20), 2**20, cols)
                totals[vector] += psums
                last = tile == tiles - 1
                if last:
                    expected[len(beats) + 1] = totals[vector].tolist()
                beats.append((int(vector == 0), int(tile == 0), int(last), [int(p) for p in psums]))
    assert run(hardware, ArrayConfig(rows=1, cols=cols, accumulator_depth=depth), beats) == expected


def test_sim_same_word_in_consecutive_cycles(hardware):
    """Tiles of one vector follow each other: what one writes, the next reads in the very next cycle."""
    beats = [(1, int(n == 0), int(n == 5), [10**n, -(10**n)]) for n in range(6)]
    assert run(hardware, ArrayConfig(rows=1, cols=2, accumulator_depth=8), beats) == {6: [111111, -111111]}


def test_sim_sums_wrap(hardware):
    """Sums are 32 bits, modulo 2**32."""
    beats = [(1, 1, 0, [2**31 - 1]), (1, 0, 1, [1])]
    assert run(hardware, ArrayConfig(rows=1, cols=1), beats) == {2: [-(2**31)]}


def test_sim_tile_without_sums_leaves_the_others(hardware):
    """A reduction that starts anew does not see what an earlier one left."""
    beats = [(1, 1, 0, [5]), (0, 1, 0, [6]), (1, 1, 1, [100]), (1, 0, 1, [1]), (0, 0, 1, [1])]
    # The third beat finishes at once and is not kept, so the last two still find 5 and 6.
    assert run(hardware, ArrayConfig(rows=1, cols=1, accumulator_depth=4), beats) == {3: [100], 4: [6], 5: [7]}
