"""How much each layer matters, and the thresholds of detection and repair that follow.

Implements Eq. (2) and (3) of [Khalil & Hoque]. The paper leaves both factors of Eq. (2) to the reader; here ``beta_p`` falls
linearly with depth, and ``gamma_s`` is the logarithm of the multiplications behind one output channel, relative to the layer with
the most, times the fraction of weights that are not zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from epsilon.network import QuantizedNetwork, WeightedLayer
from epsilon.signatures import golden_signature
from epsilon.validation import output_shapes

__all__ = ["CODE_RANGE", "OFFSET", "LayerImportance", "importances"]

#: The offset m of Eq. (3).
OFFSET = 3.0
#: Codes per unit of the weight range: the largest code.
CODE_RANGE = 127


@dataclass(frozen=True)
class LayerImportance:
    """The importance of one layer, with everything it was computed from.

    Parameters
    ----------
    depth : int
        Weighted layers on the way from the input, this one included.
    deepest : int
        The greatest depth in the network.
    fan_in : int
        Weights of one output channel.
    reuse : int
        Times that a weight is used per image (pixels of the output).
    most_products : int
        The greatest ``fan_in * reuse`` in the network.
    sparsity : float
        Fraction of zero codes.
    sigma : float
        Standard deviation of the weights in units of the weight range (codes / 127).
    offset : float
        m of Eq. (3).
    given : float, optional
        An importance that takes the place of Eq. (2).
    """

    depth: int
    deepest: int
    fan_in: int
    reuse: int
    most_products: int
    sparsity: float
    sigma: float
    offset: float = OFFSET
    given: float | None = None

    @property
    def beta_p(self) -> float:
        """Positional importance: 1 for the first layer, falling linearly to 1 / deepest for the last."""
        return 1 - (self.depth - 1) / self.deepest

    @property
    def gamma_s(self) -> float:
        """Structural importance, 0..1."""
        return math.log1p(self.fan_in * self.reuse) / math.log1p(self.most_products) * (1 - self.sparsity)

    @property
    def alpha(self) -> float:
        """Importance, Eq. (2), unless another is given."""
        return self.beta_p * self.gamma_s if self.given is None else self.given

    @property
    def threshold(self) -> float:
        """T_l of Eq. (3), in units of the weight range: what a pattern score is compared with."""
        return (self.offset + self.alpha) * self.sigma

    @property
    def threshold_codes(self) -> float:
        """T_l in codes: how far from the mean a weight may lie."""
        return self.threshold * CODE_RANGE


def importances(network: QuantizedNetwork, offset: float = OFFSET, alpha: float | None = None) -> dict[str, LayerImportance]:
    """Return the importance of every weighted layer by its name, from the golden weights.

    Parameters
    ----------
    offset : float
        m of Eq. (3), at least 0.
    alpha : float, optional
        The importance of every layer, 0..1, in place of Eq. (2).
    """
    if not offset >= 0:
        raise ValueError(f"The offset m of the thresholds must be at least 0, not {offset!r}")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)) or not 0 <= alpha <= 1):
        raise ValueError(f"The importance alpha must be a number from 0 to 1, not {alpha!r}")
    shapes = output_shapes(network)
    depths = _depths(network)
    reuse = {layer.name: math.prod(shapes[layer.name][1:]) for layer in network.weighted}
    most = max(layer.matrix.shape[1] * reuse[layer.name] for layer in network.weighted)
    found = {}
    for layer in network.weighted:
        codes, signature = layer.matrix, golden_signature(layer)
        found[layer.name] = LayerImportance(
            depth=depths[layer.name],
            deepest=max(depths.values()),
            fan_in=codes.shape[1],
            reuse=reuse[layer.name],
            most_products=most,
            sparsity=int(signature.histogram[128]) / codes.size,
            sigma=signature.std / CODE_RANGE,
            offset=offset,
            given=None if alpha is None else float(alpha),
        )
    return found


def _depths(network: QuantizedNetwork) -> dict[str, int]:
    depths: dict[str, int] = {}
    for layer in network.layers:
        before = max((depths.get(name, 0) for name in layer.inputs), default=0)
        depths[layer.name] = before + isinstance(layer, WeightedLayer)
    return depths
