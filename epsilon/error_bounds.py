"""The bounds on missed faults and on wrong predictions that [Khalil & Hoque] state, to stand beside the measured rates."""

from __future__ import annotations

import math

__all__ = ["error_bound", "missed_bound"]


def missed_bound(alpha: float, rate: float) -> float:
    """Return the bound on the probability that a faulty layer is missed, Eq. (8): ``exp(-alpha**2 / (2 * rate))``.

    Parameters
    ----------
    alpha : float
        Importance of the layer, 0..1.
    rate : float
        Fault rate p, 0..1; 0 without faults, where nothing can be missed.
    """
    return math.exp(-(alpha**2) / (2 * rate)) if rate else 0.0


def error_bound(gamma: float, exits: int, missed: float) -> float:
    """Return the bound on the probability of a wrong prediction, Eq. (9): ``(1 - gamma)**exits + missed``.

    Parameters
    ----------
    gamma : float
        Confidence of an exit.
    exits : int
        Exits of the network.
    missed : float
        ``missed_bound``.
    """
    return (1 - gamma) ** exits + missed
