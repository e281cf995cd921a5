"""Sample sizes against published values of the same formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsilon import network_io
from epsilon.config import ArrayConfig
from epsilon.sampling_plan import fault_populations, margin_of, sample_size


@pytest.mark.parametrize(
    ("margin", "confidence", "expected"), [(0.01, 0.95, 9604), (0.05, 0.95, 385), (0.01, 0.99, 16588), (0.001, 0.95, 960365)]
)
def test_unlimited_population(margin, confidence, expected):
    # t^2 / 4 e^2 with the quantiles of every statistics table, 1.95996 and 2.57583, rounded up.
    assert sample_size(margin=margin, confidence=confidence) == expected


# R. V. Krejcie, D. W. Morgan, "Determining sample size for research activities", Educational and Psychological Measurement 30,
# 1970, table 1: the same formula at 5 % and 95 %, rounded to the nearest.
@pytest.mark.parametrize(
    ("population", "printed"), [(100, 80), (200, 132), (500, 217), (1000, 278), (5000, 357), (10000, 370), (75000, 382)]
)
def test_finite_population_of_a_printed_table(population, printed):
    assert sample_size(margin=0.05, population=population) - printed in (0, 1)


@given(st.integers(2, 10**9), st.floats(0.001, 0.3), st.floats(0.5, 0.999))
def test_sample_gives_the_margin_and_one_less_does_not(population, margin, confidence):
    size = sample_size(margin=margin, confidence=confidence, population=population)
    assert 1 <= size <= population
    assert margin_of(samples=size, confidence=confidence, population=population) <= margin * (1 + 1e-6)
    if size > 1:
        assert margin_of(samples=size - 1, confidence=confidence, population=population) > margin * (1 - 1e-6)


def test_populations_of_a_network_and_of_the_array():
    network, config = network_io.load("digits"), ArrayConfig(rows=8, cols=4, multiplier="KVP")
    *layers, total = fault_populations(network, config, site="storage", polarities=2)
    assert [each.name for each in layers] == [layer.name for layer in network.weighted]
    assert total.registers == sum(layer.matrix.size for layer in network.weighted)
    assert total.faults == sum(each.faults for each in layers) == total.registers * 16
    (array,) = fault_populations(network, config, site="array", polarities=1)
    assert array.faults == 8 * 4 * 8


@pytest.mark.parametrize(
    "wrong", [{"margin": 0.0}, {"margin": 1.5}, {"margin": 0.1, "confidence": 1.0}, {"margin": 0.1, "population": 0}]
)
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValueError, match="not"):
        sample_size(**wrong)
