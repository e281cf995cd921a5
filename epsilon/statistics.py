"""Intervals for measured proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Proportion"]

#: Two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """How many of a sample had a property, with its 95 % interval.

    Parameters
    ----------
    hits : int
        0..total.
    total : int
        Size of the sample, at least 1.
    """

    hits: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1 or not 0 <= self.hits <= self.total:
            raise ValueError(f"A proportion needs 0 <= hits <= total and total >= 1, not {self.hits} of {self.total}")

    @property
    def value(self) -> float:
        """The measured proportion, 0..1."""
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %, both ends inside 0..1.

        Ref: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22(158), 1927, pp. 209-212.
        """
        n, p = self.total, self.value
        spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
        middle = p + Z_95**2 / (2 * n)
        scale = 1 + Z_95**2 / n
        low = 0.0 if self.hits == 0 else (middle - spread) / scale
        high = 1.0 if self.hits == n else (middle + spread) / scale
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
