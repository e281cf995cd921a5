"""What a table is, exactly: masks are found, sums of few products are found with the fewest terms, everything else is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epsilon import multipliers
from epsilon.imported.factors import MAX_TERMS, exact_terms, mask_of

CODES = np.arange(-128, 128)
PUBLISHED = [key for key in multipliers.catalogue() if not key.startswith("adapt/")]


def joined(terms):
    total = np.zeros((256, 256), np.int64)
    for term in terms:
        total += term.sign * np.multiply.outer(np.array(term.a_map, np.int64), np.array(term.b_map, np.int64))
    return total


def is_int8(terms):
    return all(min(values) >= -128 and max(values) <= 127 for term in terms for values in (term.a_map, term.b_map))


@pytest.mark.parametrize("key", PUBLISHED)
def test_masks_of_the_catalogue_are_found(key):
    multiplier = multipliers.get(key)
    assert mask_of(multiplier.table()) == multiplier.mask


@given(st.binary(min_size=8, max_size=8))
@settings(max_examples=30, deadline=None)
def test_any_mask_is_found(mask):
    assert mask_of(multipliers.baugh_wooley(mask)) == mask


@pytest.mark.parametrize(("row", "col"), [(0, 0), (128, 255), (255, 255), (129, 129)])
def test_one_wrong_product_makes_it_no_mask(row, col):
    table = multipliers.get("KVP").table().astype(np.int32)
    table[row, col] += 1
    assert mask_of(table) is None


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 40, 128]))
@settings(max_examples=15, deadline=None)
def test_integer_rank(rank, seed, most):
    """Random maps of rank r: exactly r terms, which add up to the table."""
    rng = np.random.default_rng(seed)
    a_maps, b_maps = rng.integers(-most, most + 1, (256, rank)), rng.integers(-most, most + 1, (rank, 256))
    table = a_maps @ b_maps
    terms = exact_terms(table)
    assert len(terms) == rank
    assert np.array_equal(joined(terms), table)


def test_maps_stay_small():
    """Maps that were int8 come back as int8, however the rows of the table mix them."""
    rng = np.random.default_rng(3)
    for rank in range(1, 7):
        a_maps, b_maps = rng.integers(-127, 128, (256, rank)), rng.integers(-127, 128, (rank, 256))
        assert is_int8(exact_terms(a_maps @ b_maps))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_common_factors_and_dependent_maps(rank, seed):
    """Elementary divisors other than 1, and a basis far from reduced."""
    rng = np.random.default_rng(seed)
    mixing = np.triu(rng.integers(-3, 4, (rank, rank)), 1) + np.eye(rank, dtype=int)
    a_maps = rng.integers(-7, 8, (256, rank)) @ np.diag(rng.integers(1, 9, rank)) @ mixing
    table = a_maps @ rng.integers(-7, 8, (rank, 256))
    terms = exact_terms(table)
    assert len(terms) == np.linalg.matrix_rank(table)
    assert np.array_equal(joined(terms), table)


def test_rank_is_limited():
    rng = np.random.default_rng(1)
    for rank, found in ((MAX_TERMS, MAX_TERMS), (MAX_TERMS + 1, None)):
        table = rng.integers(-9, 10, (256, rank)) @ rng.integers(-9, 10, (rank, 256))
        terms = exact_terms(table)
        assert (None if terms is None else len(terms)) == found


def test_maps_beyond_int16_are_left_to_the_table():
    for most, found in ((2**15 - 1, True), (2**15 + 1, False)):
        values = np.where(CODES > 0, most, 1)
        assert (exact_terms(np.multiply.outer(values, CODES)) is not None) == found


def test_compensation_leaves_the_products_masked():
    """A constant costs one term, whose maps are a constant; all others keep their masks, which are fast."""
    kvp = multipliers.get("KVP")
    terms = exact_terms(kvp.table().astype(np.int32) + 37)
    assert terms[:-1] == kvp.terms
    assert {abs(a) * abs(b) for a in terms[-1].a_map for b in terms[-1].b_map} == {37}


def test_mitchell_is_two_products():
    """Mitchell's logarithmic multiplier on magnitudes leaves out the product of what is left beside the leading ones."""

    def rest(code):
        return abs(code) - (1 << abs(code).bit_length() - 1) if code else 0

    signed_rest = np.array([rest(int(code)) * (-1 if code < 0 else 1) for code in CODES])
    table = np.multiply.outer(CODES, CODES) - np.multiply.outer(signed_rest, signed_rest)
    terms = exact_terms(table)
    assert len(terms) == 2
    assert is_int8(terms)
    assert np.array_equal(joined(terms), table)


def test_masks_of_maps_are_found():
    (term,) = exact_terms(-3 * np.multiply.outer(CODES & ~7, CODES))
    assert (term.a_mask, term.b_mask) in ((0xF8, None), (None, 0xFF))
    (term,) = exact_terms(-np.multiply.outer(CODES & ~7, CODES & ~1))
    assert (term.a_mask, term.b_mask, term.sign) == (0xF8, 0xFE, -1)


def test_nothing():
    assert exact_terms(np.zeros((256, 256), int)) == ()
    assert mask_of(np.zeros((256, 256), int)) == bytes(8)


def test_rounding_is_only_a_table():
    assert exact_terms((np.multiply.outer(CODES, CODES) + 16) >> 5 << 5) is None
