"""A multiplier's terms as arrays: what each makes of the activation and of the weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from epsilon.multipliers import Multiplier, Term

__all__ = ["Operands", "operands"]

INT16 = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Operands:
    """The terms of a multiplier: its product is the sum over them of ``a_maps[t, a + 128] * b_maps[t, b + 128]``.

    ``a_maps``, ``b_maps``: int64 (terms, 256), signs on the weight's side; ``a_masks``: int32 (terms,), the activation's map as
    a bit mask 0..255, or -1 where it is none.
    """

    a_maps: np.ndarray
    b_maps: np.ndarray
    a_masks: np.ndarray

    def __len__(self) -> int:
        return len(self.a_masks)

    def fit(self, a_growth: int = 1, b_growth: int = 1) -> bool:
        """Return whether all values, times what a transformation can make of them, fit 16 bits."""
        pairs = ((self.a_maps, a_growth), (self.b_maps, b_growth))
        return all(int(np.abs(maps).max(initial=0)) * growth <= INT16 for maps, growth in pairs)

    def weights(self, seen: np.ndarray, dtype: type = np.int16) -> np.ndarray:
        """Return the mapped weights of int8 ``seen`` (N, ...), (N, terms, ...)."""
        index = seen.astype(np.int16) + 128
        return np.stack([b_map[index] for b_map in self.b_maps.astype(dtype)], axis=1)


def operands(multiplier: Multiplier) -> Operands | None:
    """Return the terms of a multiplier; None where it has none and only its table says what it does."""
    return _operands(multiplier.terms) if multiplier.terms else None


@lru_cache(maxsize=128)
def _operands(terms: tuple[Term, ...]) -> Operands:
    return Operands(
        a_maps=np.array([term.a_map for term in terms], np.int64),
        b_maps=np.array([term.b_map for term in terms], np.int64) * np.array([[term.sign] for term in terms], np.int64),
        a_masks=np.array([-1 if term.a_mask is None else term.a_mask for term in terms], np.int32),
    )
