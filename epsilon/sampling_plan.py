"""How many faults, or fault maps, have to be sampled for a wanted margin of error.

Ref: R. Leveugle, A. Calvez, P. Maistri, P. Vanhauwaert, "Statistical fault injection: Quantified error and confidence", DATE 2009,
pp. 502-506, eq. (4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from epsilon.config import ArrayConfig
from epsilon.network import QuantizedNetwork
from epsilon.statistics import normal_quantile, require_confidence

__all__ = ["BITS_PER_WEIGHT", "Population", "fault_populations", "margin_of", "sample_size"]

BITS_PER_WEIGHT = 8


@dataclass(frozen=True)
class Population:
    """Single stuck-at faults that one could inject.

    Parameters
    ----------
    name : str
        A layer, ``all layers`` or ``array``.
    registers : int
        Weight registers.
    faults : int
        registers x 8 bits x polarities.
    """

    name: str
    registers: int
    faults: int


def sample_size(*, margin: float, confidence: float = 0.95, population: int | None = None, proportion: float = 0.5) -> int:
    """Return how many to draw at random so that a measured proportion is within ``margin`` of the population's.

    Implements eq. (4) of [Leveugle et al.]: ``n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))``, rounded up.

    Parameters
    ----------
    margin : float
        e, half the width of the interval, strictly between 0 and 1.
    confidence : float
        With which the interval holds the true proportion.
    population : int, optional
        N; None for an unlimited one.
    proportion : float
        p, what the proportion is expected to be; 0.5 asks for the most, so it is safe where nothing is known.

    Raises
    ------
    ValueError
        For a value outside these.
    """
    _require_fraction("margin of error", margin)
    _require_fraction("expected proportion", proportion)
    if population is not None and (isinstance(population, bool) or not isinstance(population, int) or population < 1):
        raise ValueError(f"The population must be an integer of at least 1, not {population!r}")
    scaled = normal_quantile(confidence) ** 2 * proportion * (1 - proportion)
    wanted = scaled / margin**2 if population is None else population / (1 + margin**2 * (population - 1) / scaled)
    # An exact integer must not become the next one by the last bit of a float.
    return math.ceil(round(wanted, 9))


def margin_of(*, samples: int, confidence: float = 0.95, population: int | None = None, proportion: float = 0.5) -> float:
    """Return the margin of error that so many samples give: ``sample_size`` solved for e."""
    if samples < 1 or (population is not None and samples > population):
        most = "" if population is None else f" and at most the population of {population}"
        raise ValueError(f"The number of samples must be at least 1{most}, not {samples}")
    require_confidence(confidence)
    _require_fraction("expected proportion", proportion)
    spread = normal_quantile(confidence) * math.sqrt(proportion * (1 - proportion) / samples)
    if population is None:
        return spread
    return 0.0 if samples == population else spread * math.sqrt((population - samples) / (population - 1))


def fault_populations(network: QuantizedNetwork, config: ArrayConfig, *, site: str, polarities: int) -> tuple[Population, ...]:
    """Return the single stuck-at faults there are: of each layer, then of all (site ``storage``), or of the PEs (``array``).

    Parameters
    ----------
    polarities : int
        1 for stuck-at-0 or stuck-at-1 alone, 2 for both.
    """
    per_register = BITS_PER_WEIGHT * polarities
    if site == "array":
        registers = config.rows * config.cols
        return (Population("array", registers, registers * per_register),)
    if site != "storage":
        raise ValueError(f"The site must be one of storage, array, not {site!r}")
    sizes = {layer.name: int(layer.matrix.size) for layer in network.weighted}
    rows = [Population(name, size, size * per_register) for name, size in sizes.items()]
    total = sum(sizes.values())
    return (*rows, Population("all layers", total, total * per_register))


def _require_fraction(what: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"The {what} lies strictly between 0 and 1, not {value!r}")
