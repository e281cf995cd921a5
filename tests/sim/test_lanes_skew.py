"""Systolic arrays in lanes: instances that run in the order of the data must do in every cycle what they do side by side."""

import pytest
from lane_bench import in_lane, in_lanes, simulated
from lane_grid import Grid, stimulus

from epsilon.config import ArrayConfig
from sim.lanes import backend as backends
from sim.lanes import build, generator
from sim.lanes.design import compile_design


@pytest.fixture
def skews(monkeypatch) -> list:
    """What was found out about the order of the instances of every design that is compiled meanwhile."""
    found = []

    def spy(*arguments):
        found.append(find(*arguments))
        return found[-1]

    find = generator.skew_instances
    monkeypatch.setattr(generator, "skew_instances", spy)
    return found


def check(seed: int, backend: str = "auto", **options) -> None:
    grid = Grid(seed, **options)
    parts = {"node": grid.node()}
    design = compile_design(grid, grid.ports, varying_inputs=set(grid.varying), shared=parts, platform=object(), backend=backend)
    cycles = stimulus(grid, design.lanes, seed)
    seen = in_lanes(design, grid.outputs, cycles)
    for lane in (0, design.lanes - 1):
        plain = Grid(seed, **options)
        mine = [[in_lane(value, lane) for value in outputs] for outputs in seen]
        assert mine == simulated(plain, plain.inputs, plain.outputs, cycles, lane)


@pytest.mark.parametrize("seed", range(8))
def test_instances_in_the_order_of_the_data_equal_amaranth(seed, skews):
    check(seed)
    assert skews[0] is not None
    assert any(skews[0].after.values())


@pytest.mark.parametrize("backend", backends.available())
def test_every_back_end_skews_alike(backend):
    check(3, backend)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"straight": True}, "nothing behind the columns makes up for their lag"),
        ({"restless": True}, "sums grow while zeros come in"),
        ({"first": 1}, "a constant comes in before the first cycle"),
        ({"begin": 3}, "not all begins as zeros"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_designs_that_cannot_lag_are_simulated_as_they_are(seed, options, why, skews):
    check(seed, **options)
    assert skews == [None], why


def test_the_array_lags_by_rows_and_columns(skews):
    config = ArrayConfig(rows=3, cols=4, level="words", accumulator_depth=16)
    source, _ = build.generate_accelerator(config)
    skew = skews[0]
    assert len(skew.after) == 12
    assert sorted(map(len, skew.after.values())) == [0] + [1] * 5 + [2] * 6
    # From the left comes an operation; from above a sum, which is wider.
    assert all(found[-1].split(".")[0] == name.split(".")[0] for name, found in skew.after.items() if len(found) == 2)
    # The triangle behind the columns is gone: 32-bit sums and words of the chain, 3 + 2 + 1 registers each.
    assert len(skew.same) > 6 * 10
    assert "o0[" in source


def test_nets_that_can_be_stuck_stay_where_they_are(skews):
    build.generate_accelerator(ArrayConfig(rows=2, cols=2, level="words", accumulator_depth=16), nets=True)
    assert skews == []
