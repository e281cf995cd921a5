"""What a multiplier's table is, exactly over the integers: a mask of partial products, a sum of few products, or only a table.

A table of rank r over the rationals is a sum of r products of an integer map of A and an integer map of B: the integer
combinations of its rows are a lattice, any basis of that lattice has r vectors (the maps of B), and every row is an integer
combination of them (the maps of A). Which basis decides how large the maps are; it is reduced together with the coordinates, as
Seysen does with a basis and its reciprocal, until no step makes the products that are added up smaller.

Ref: M. Seysen, "Simultaneous reduction of a lattice basis and its reciprocal basis", Combinatorica 13(3), 1993, pp. 363-376.
"""

from __future__ import annotations

import math

import numpy as np

from epsilon.multipliers import CODES, Term, baugh_wooley, mask_terms

__all__ = ["MAX_TERMS", "exact_terms", "mask_of"]

#: More products than this cost more than looking every product up in the table.
MAX_TERMS = 10
#: Largest entry of a map: consumers hold maps as int16, and a product of two must be exact in int32.
MAP_LIMIT = 2**15 - 1
#: Table indices of the operands with a single bit set.
SINGLE = np.array([(-128 if bit == 7 else 1 << bit) + 128 for bit in range(8)])
ZERO = 128


def mask_of(table: np.ndarray) -> bytes | None:
    """Return the mask of kept partial products that the table (256, 256), index ``code + 128``, is the sum of; None: of none."""
    mask = _probed_mask(np.asarray(table, dtype=np.int64))
    return mask if mask is not None and np.array_equal(baugh_wooley(mask), table) else None


def exact_terms(table: np.ndarray) -> tuple[Term, ...] | None:
    """Return at most ``MAX_TERMS`` terms that add up to the table, as many as its rank; None where that takes more.

    Parameters
    ----------
    table : integers (256, 256), index ``code + 128``
        Activation along the rows, weight along the columns.

    Returns
    -------
    tuple of Term or None
        The sum of ``sign * a_map[a] * b_map[b]`` is the table, all 65,536 entries. None as well where no sum was found whose maps
        are int16.
    """
    table = np.asarray(table, dtype=np.int64)
    maps = _factorised(table)
    if maps is None:
        return None
    # Each measure has local minima of its own; neither is always better.
    squares = _reduced(*maps, 2)
    sums = [_terms(*squares), _terms(*_reduced(*squares, 1)), _around_a_mask(table, len(maps[1]))]
    sums = [terms for terms in sums if terms is not None]
    if not sums:
        return None
    terms = min(sums, key=_cost)
    total = sum((t.sign * np.multiply.outer(np.array(t.a_map), np.array(t.b_map)) for t in terms), np.zeros((256, 256), np.int64))
    assert np.array_equal(total, table)
    return terms


def _probed_mask(table: np.ndarray) -> bytes | None:
    """Return the mask whose partial products the operands with a single bit show, apart from what either operand adds alone."""
    alone = table[SINGLE][:, [ZERO]] + table[[ZERO]][:, SINGLE] - table[ZERO, ZERO]
    joint = table[np.ix_(SINGLE, SINGLE)] - alone
    kept = joint != 0
    products = np.multiply.outer(CODES[SINGLE].astype(np.int64), CODES[SINGLE].astype(np.int64))
    if not np.array_equal(joint, np.where(kept, products, 0)):
        return None
    return bytes(int(np.packbits(row, bitorder="little")[0]) for row in kept)


def _around_a_mask(table: np.ndarray, rank: int) -> tuple[Term, ...] | None:
    """Return a mask's terms and those of the rest, for a table that adds little to a mask: a compensation, for example."""
    mask = _probed_mask(table)
    if mask is None or not any(mask):
        return None
    terms = mask_terms(mask)
    rest = _factorised(table - baugh_wooley(mask), rank - len(terms))
    added = None if rest is None else _terms(*_reduced(*rest, 2))
    return None if added is None else (*terms, *added)


def _factorised(table: np.ndarray, most: int = MAX_TERMS) -> tuple[np.ndarray, np.ndarray] | None:
    """Return integer maps (256, r) and (r, 256) whose product is the table of rank r; None where r is above ``most``.

    In Python's integers, which do not overflow.
    """
    basis: dict[int, np.ndarray] = {}  # by pivot column: no other row has an entry that far left
    for row in np.unique(table, axis=0).astype(object):
        while row.any():
            column = int(np.flatnonzero(row)[0])
            if column not in basis:
                if len(basis) >= most:
                    return None
                basis[column] = row
                break
            known = basis[column]
            quotient, rest = divmod(row[column], known[column])
            row = row - quotient * known
            if rest:
                # Euclid: the smaller entry becomes the pivot, and the row that had it goes on.
                basis[column], row = row, known
        _shorten(basis)
    left = table.astype(object)
    coordinates = np.zeros((len(table), len(basis)), dtype=object)
    rows = [basis[column] for column in sorted(basis)]
    for k, (column, row) in enumerate(zip(sorted(basis), rows, strict=True)):
        coordinates[:, k] = left[:, column] // row[column]
        left = left - np.multiply.outer(coordinates[:, k], row)
    assert not left.any()
    return coordinates, np.array(rows, dtype=object).reshape(-1, 256)


def _shorten(basis: dict[int, np.ndarray]) -> None:
    """Reduce what stands above each pivot, so that the numbers stay small."""
    columns = sorted(basis)
    for lower in range(1, len(columns)):
        pivot = basis[columns[lower]]
        for upper in columns[:lower]:
            quotient = basis[upper][columns[lower]] // pivot[columns[lower]]
            if quotient:
                basis[upper] = basis[upper] - quotient * pivot


def _reduced(a_maps: np.ndarray, b_maps: np.ndarray, power: int) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (256, r) and (r, 256) of the same sum whose products are small, so that little cancels when they are added.

    ``b_i += n b_j`` with ``a_j -= n a_i`` leaves the sum as it is; it is done while it makes ``sum_k (|a_k| |b_k|)**power``
    smaller. ``power`` 2 is Seysen's measure, 1 the nearest to a bound of the sum.
    """
    a_maps, b_maps = a_maps.copy(), b_maps.copy()
    pairs = [(i, j) for i in range(len(b_maps)) for j in range(len(b_maps)) if i != j]
    a_gram, b_gram = a_maps.T.dot(a_maps), b_maps.dot(b_maps.T)
    changed = True
    while changed:
        changed = False
        for i, j in pairs:
            n = _best_multiple(a_gram, b_gram, i, j, power)
            if not n:
                continue
            b_maps[i] = b_maps[i] + n * b_maps[j]
            a_maps[:, j] = a_maps[:, j] - n * a_maps[:, i]
            for gram, target, source, factor in ((b_gram, i, j, n), (a_gram, j, i, -n)):
                gram[target] = gram[target] + factor * gram[source]
                gram[:, target] = gram[:, target] + factor * gram[:, source]
            changed = True
    return a_maps, b_maps


def _best_multiple(a_gram: np.ndarray, b_gram: np.ndarray, i: int, j: int, power: int) -> int:
    """Return an n by which adding ``n b_j`` to b_i makes the measure of ``_reduced`` smaller, 0 where there is none."""

    def size(n: int) -> float:
        b_i = b_gram[i, i] + 2 * n * b_gram[i, j] + n * n * b_gram[j, j]
        a_j = a_gram[j, j] - 2 * n * a_gram[i, j] + n * n * a_gram[i, i]
        return float(b_i * a_gram[i, i]) ** (power / 2) + float(b_gram[j, j] * a_j) ** (power / 2)

    # The measure is convex in n: where neither 1 nor -1 helps, nothing does. The minimum of the squares is a parabola's.
    numerator = a_gram[i, j] * b_gram[j, j] - b_gram[i, j] * a_gram[i, i]
    denominator = 2 * a_gram[i, i] * b_gram[j, j]
    lowest = (2 * numerator + denominator) // (2 * denominator)
    # What rounding could make of a tie is no help.
    return next((n for n in (lowest, 1, -1) if n and size(n) < size(0) * (1 - 1e-9)), 0)


def _terms(a_maps: np.ndarray, b_maps: np.ndarray) -> tuple[Term, ...] | None:
    terms = [_term(a_map, b_map) for a_map, b_map in zip(a_maps.T, b_maps, strict=True)]
    return None if None in terms else tuple(terms)


def _term(a_map: np.ndarray, b_map: np.ndarray) -> Term | None:
    """Return one product, its common factor where it makes a mask of a map, else the larger map smallest; None beyond int16."""
    a_common, b_common = math.gcd(*a_map), math.gcd(*b_map)
    common = a_common * b_common
    a_map, b_map = a_map // a_common, b_map // b_common
    a_most, b_most = int(abs(a_map).max()), int(abs(b_map).max())
    shares = [s for s in _divisors(common) if max(a_most * s, b_most * (common // s)) <= MAP_LIMIT]
    if not shares:
        return None

    def preference(share: int) -> tuple[int, int]:
        pair = a_map * share, b_map * (common // share)
        masks = sum(_mask(values) is not None or _mask(-values) is not None for values in pair)
        return -masks, max(a_most * share, b_most * (common // share))

    share = min(shares, key=preference)
    sign, maps, masks = 1, [], []
    for values in (a_map * share, b_map * (common // share)):
        # -128 fits in int8 where 128 does not.
        if _mask(values) is None and (_mask(-values) is not None or values.max() == 128 > -values.min()):
            values, sign = -values, -sign
        maps.append(tuple(map(int, values)))
        masks.append(_mask(values))
    return Term(*masks, *maps, sign=sign)


def _mask(values: np.ndarray) -> int | None:
    """Return the mask whose map this is, or None."""
    mask = int(values[-1 + 128]) & 0xFF
    return mask if np.array_equal(CODES & np.int16(mask - 256 if mask & 0x80 else mask), values) else None


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]


def _cost(terms: tuple[Term, ...]) -> tuple[int, int, int]:
    """Return what makes a sum slow: maps wider than int8, maps that are no masks, and the most that a product can add up to."""
    maps = [(term.a_map, term.b_map) for term in terms]
    wide = sum(min(values) < -128 or max(values) > 127 for pair in maps for values in pair)
    looked_up = sum(mask is None for term in terms for mask in (term.a_mask, term.b_mask))
    return wide, looked_up, sum(max(map(abs, a_map)) * max(map(abs, b_map)) for a_map, b_map in maps)
