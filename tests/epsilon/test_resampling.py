"""Intervals over maps and images: determinism, known limits, pairing, and coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from epsilon.resampling import Cell, Estimate, Resampler, unpaired_difference
from epsilon.statistics import Proportion


def cell_of(resampler: Resampler, hits: np.ndarray, cluster=0, images="set") -> Cell:
    return Cell(hits.mean(axis=1), resampler.image_replicates(hits, images), cluster)


def drawn(rng, maps: int, images: int, map_spread: float) -> np.ndarray:
    """Return hits whose probability is that of the map times that of the image."""
    of_map, of_image = 1 - map_spread * rng.random(maps), rng.choice([0.2, 1.0], size=images)
    return (rng.random((maps, images)) < of_map[:, None] * of_image).astype(np.uint8)


def test_same_seed_same_interval_and_another_seed_another():
    hits = drawn(np.random.default_rng(1), 4, 300, 0.5)
    first, again, other = (
        r.mean([cell_of(r, hits)], images=300) for r in (Resampler(seed=1), Resampler(seed=1), Resampler(seed=2))
    )
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.value < first.high
    assert first.method == "maps and images"


def test_one_map_is_wilson_over_images():
    resampler, hits = Resampler(), np.array([[1] * 81 + [0] * 182], np.uint8)
    found = resampler.mean([cell_of(resampler, hits)], images=263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert found.method == "images"


def test_one_map_over_several_cells_agrees_with_the_normal_interval_over_images():
    resampler, rng = Resampler(resamples=4000), np.random.default_rng(3)
    rows = [drawn(rng, 1, 400, 0.3) for _ in range(5)]
    found = resampler.mean([cell_of(resampler, row, cluster) for cluster, row in enumerate(rows)], images=400)
    per_image = np.mean(rows, axis=0)[0]
    half = 1.96 * per_image.std(ddof=1) / np.sqrt(400)
    assert found.method == "images"
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_interval_over_maps_agrees_with_the_normal_one():
    resampler, values = Resampler(resamples=4000), np.random.default_rng(4).normal(0.7, 0.1, 60)
    constant = np.repeat(values[:, None], 4000, axis=1)
    found = resampler.mean([Cell(values, constant)], images=100)
    half = 1.96 * values.std(ddof=1) / np.sqrt(60)
    assert found.method == "maps"
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered = np.random.default_rng(5), 0
    truth = (1 - 0.6 / 2) * 0.6  # mean of the map's factor times mean of the image's
    for trial in range(80):
        resampler = Resampler(resamples=200, seed=trial)
        found = resampler.mean([cell_of(resampler, drawn(rng, 12, 150, 0.6))], images=150)
        covered += found.low <= truth <= found.high
    assert covered / 80 >= 0.88


def test_paired_difference_is_narrower_than_the_unpaired_one():
    resampler, rng = Resampler(), np.random.default_rng(6)
    worse = drawn(rng, 5, 500, 0.8)
    better = worse | (rng.random(worse.shape) < 0.03)
    one, two = cell_of(resampler, better), cell_of(resampler, worse)
    paired = resampler.mean([Cell(one.values - two.values, one.replicates - two.replicates, 0)], images=500, signed=True)
    loose = unpaired_difference(resampler.mean([one], images=500), resampler.mean([two], images=500))
    assert paired.value == pytest.approx(loose.value)
    assert paired.low > 0
    assert paired.high - paired.low < (loose.high - loose.low) / 4


def test_rows_that_never_differ_leave_the_difference_open_by_wilson():
    resampler = Resampler()
    nothing = Cell(np.zeros(3), np.zeros((3, resampler.resamples), np.float32))
    found = resampler.mean([nothing], images=200, signed=True)
    assert (found.low, found.high) == pytest.approx((-0.0188, 0.0188), abs=5e-5)
    everything = Cell(np.ones(3), np.ones((3, resampler.resamples), np.float32))
    assert resampler.mean([everything], images=200).low == pytest.approx(Proportion(200, 200).interval[0])


def test_cells_of_one_cluster_are_drawn_together():
    resampler, rng = Resampler(), np.random.default_rng(7)
    values = rng.random(8)
    up, down = (np.repeat(v[:, None], resampler.resamples, axis=1) for v in (values, 1 - values))
    together = resampler.mean([Cell(values, up, "a"), Cell(1 - values, down, "a")], images=50, signed=True)
    apart = resampler.mean([Cell(values, up, "a"), Cell(1 - values, down, "b")], images=50, signed=True)
    # What one map gains the same map loses in the other cell: their mean does not vary.
    assert together.method == "images"
    assert apart.high - apart.low > 0.1


def test_unpaired_difference_of_a_textbook_case():
    # Newcombe, Statistics in Medicine 17 (1998), table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339.
    first, second = (Estimate(p.value, *p.interval, 1, p.total, "images") for p in (Proportion(56, 70), Proportion(48, 80)))
    found = unpaired_difference(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"resamples": 10}, {"seed": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="not"):
        Resampler(**wrong)
