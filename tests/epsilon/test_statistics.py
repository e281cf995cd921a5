"""Wilson intervals against published and limiting values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsilon.statistics import Proportion, normal_quantile


def test_interval_of_a_textbook_case():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263 is 0.2553 to 0.3662.
    assert Proportion(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Proportion(15, 148).interval == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_interval_at_the_ends():
    assert Proportion(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Proportion(20, 20).interval == pytest.approx((0.8389, 1.0), abs=5e-5)


@given(st.integers(1, 2000), st.data())
def test_interval_holds_the_value_and_stays_in_range(total, data):
    proportion = Proportion(data.draw(st.integers(0, total)), total)
    low, high = proportion.interval
    assert 0 <= low <= proportion.value <= high <= 1


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits, total):
    with pytest.raises(ValueError, match=f"not {hits} of {total}"):
        Proportion(hits, total)


def test_text():
    assert str(Proportion(1, 2)) == "50.0 % [9.5, 90.5]"


def test_interval_at_another_confidence():
    proportion = Proportion(81, 263)
    assert proportion.wilson(0.95) == proportion.interval
    inner, outer = proportion.wilson(0.9), proportion.wilson(0.99)
    assert outer[0] < proportion.interval[0] < inner[0] < proportion.value < inner[1] < proportion.interval[1] < outer[1]
    assert normal_quantile(0.99) == pytest.approx(2.575829, abs=1e-6)


@pytest.mark.parametrize("wrong", [0, 1, 95, True])
def test_impossible_confidence_is_refused(wrong):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Proportion(1, 2).wilson(wrong)
