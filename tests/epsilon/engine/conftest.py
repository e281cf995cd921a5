"""Layers and multipliers for the tests of the engine."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from epsilon.engine import native
from epsilon.engine.bounds import largest_sum
from epsilon.engine.native_path import NativePath
from epsilon.engine.operands import operands
from epsilon.multipliers import Term


@dataclass(frozen=True, eq=False)
class Foreign:
    """A multiplier that is not in the catalogue: a table, and terms where it has any."""

    values: np.ndarray = field(repr=False)
    terms: tuple[Term, ...] | None = None

    def table(self) -> np.ndarray:
        return self.values

    @classmethod
    def of_terms(cls, *terms: Term) -> "Foreign":
        return cls(sum(term.sign * np.multiply.outer(np.array(term.a_map), np.array(term.b_map)) for term in terms), terms)


def mapped(a_map, b_map, sign=1) -> Term:
    """Return a term whose operand maps are no masks."""
    return Term(None, None, tuple(int(v) for v in a_map), tuple(int(v) for v in b_map), sign)


@pytest.fixture(params=list(native.LEVELS))
def library(request):
    """Every level of kernels, those that this processor lacks skipped by name."""
    if request.param not in native.available():
        pytest.skip(f"this processor has no {request.param}")
    return native.library(request.param)


@pytest.fixture
def native_path(library):
    """Pack weights for a kernel of this level."""

    def make(shape, seen, multiplier, kernel=None) -> NativePath:
        table = multiplier.table()
        return NativePath(shape, seen, operands(multiplier), table, largest_sum(seen, table), library, kernel)

    return make
