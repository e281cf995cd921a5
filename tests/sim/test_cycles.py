"""The closed-form cycle model equals the RTL's own counter."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim import cycles, program
from sim.program import Program
from sim.tiling import Gemm, tiles, weight_tiles
from sim.verilated import VerilatedModel

CONFIGS = ["1x1", "3x5", "2x3-gates", "4x2-plain"]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, arrays):
    made = VerilatedModel(arrays[request.param])
    yield made
    made.close()


def zeros(beats, width):
    return np.zeros((beats, width), np.uint8)


def counted(model, vectors, *, last=None, reports=(False, False), images=1):
    """Return the RTL's cycles for tiles of that many vectors; ``reports``: readback, signature of every tile."""
    config = model.config
    readback, signature = reports
    commands = program.command_beats(
        vectors=np.array(vectors),
        first=1,
        last=1 if last is None else np.array(last, dtype=int),
        readback=int(readback),
        signature=int(signature),
    )
    reported = max(len(vectors) * images - cycles.FLUSH_TILES, 0)
    # The two tiles that an earlier run left inside ask for their own reports: push them out before.
    model.reset()
    results = sum(n for n, is_last in zip(vectors, last or [True] * len(vectors), strict=True) if is_last)
    run = model.run(
        Program(
            commands=commands,
            weights=zeros(config.rows * len(vectors), 2 * config.cols),
            activations=zeros(images * sum(vectors), config.rows),
            faults=zeros(0, 2 * config.cols),
            results=images * results,
            readback=reported * config.rows * readback,
            signatures=reported * signature,
            images=images,
        ),
        max_cycles=100_000,
    )
    return run.busy_cycles


random_vectors = st.lists(st.integers(0, 7) | st.integers(0, 16), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vectors=random_vectors, readback=st.booleans(), signature=st.booleans(), data=st.data())
def test_program_cycles(model, vectors, readback, signature, data):
    """Any tiles, reported or not: the counter is the closed form, and so reports cost nothing."""
    depth = model.config.accumulator_depth
    vectors = [min(n, depth) for n in vectors]
    last = data.draw(st.lists(st.booleans(), min_size=len(vectors), max_size=len(vectors)))
    assert counted(model, vectors, last=last, reports=(readback, signature)) == cycles.program_cycles(model.config, vectors)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(1, 3),
    outputs=st.integers(1, 9),
    reduction=st.integers(1, 14),
    vectors=st.integers(1, 50),
    images=st.integers(1, 2),
)
def test_run_cycles(model, groups, outputs, reduction, vectors, images):
    """A layer of any shape, chunked by the depth of the accumulators; the images of a batch take the same each."""
    gemm = Gemm(groups, outputs, reduction, vectors)
    sequence = list(tiles(model.config, gemm))
    spent = counted(model, [tile.vectors for tile in sequence], last=[tile.last for tile in sequence], images=images)
    assert spent == images * cycles.run_cycles(model.config, gemm)


def test_scan_cycles(model):
    assert counted(model, [0] * cycles.FLUSH_TILES) == cycles.scan_cycles(model.config)


@pytest.mark.parametrize("gemm", [Gemm(1, 1, 1, 9), Gemm(2, 4, 7, 3)], ids=str)
def test_read_and_probe_cycles(model, gemm):
    count = len(list(weight_tiles(model.config, gemm)))
    assert counted(model, [0] * (count + 2), reports=(True, True)) == cycles.read_cycles(model.config, gemm)
    assert counted(model, [0] * (2 * count + 2), reports=(True, False)) == cycles.probe_cycles(model.config, gemm)
    assert counted(model, [0] * 4) == cycles.probe_cycles(model.config, None)


def test_program_cycles_by_hand(arrays):
    """3 rows, 5 columns: load 4, tiles 10 and 4 (loading takes longer than 2 vectors), then 3 vectors and the drain of 13."""
    assert cycles.program_cycles(arrays["3x5"], [10, 2, 3]) == 4 + 10 + 4 + 3 + 13
