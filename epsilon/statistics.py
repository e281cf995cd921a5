"""Intervals for measured proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["CONFIDENCE", "Proportion", "normal_quantile", "require_confidence"]

#: Of every interval, where nothing else is asked for.
CONFIDENCE = 0.95


def require_confidence(confidence: float) -> float:
    """Return a confidence level strictly between 0 and 1, or raise ValueError."""
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"A confidence level lies strictly between 0 and 1, such as 0.95, not {confidence!r}")
    return float(confidence)


def normal_quantile(confidence: float) -> float:
    """Return t with P(-t <= X <= t) = confidence for a standard normal X: 1.96 at 95 %."""
    return NormalDist().inv_cdf((1 + require_confidence(confidence)) / 2)


@dataclass(frozen=True)
class Proportion:
    """How many of a sample had a property, with its interval.

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
        """Wilson's score interval at 95 %; see ``wilson``."""
        return self.wilson(CONFIDENCE)

    def wilson(self, confidence: float) -> tuple[float, float]:
        """Return Wilson's score interval, both ends inside 0..1.

        Ref: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22(158), 1927, pp. 209-212.
        """
        n, p, z = self.total, self.value, normal_quantile(confidence)
        spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        middle = p + z**2 / (2 * n)
        scale = 1 + z**2 / n
        low = 0.0 if self.hits == 0 else (middle - spread) / scale
        high = 1.0 if self.hits == n else (middle + spread) / scale
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
