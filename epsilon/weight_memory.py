"""The weight memory of an accelerator and the stuck bits of its registers: the state that every implementation keeps alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from epsilon.accelerator import StuckBits, WeightWords
from epsilon.config import ArrayConfig
from epsilon.network import Convolution, QuantizedNetwork, WeightedLayer

if TYPE_CHECKING:
    import torch

    from epsilon.faults import FaultMap

__all__ = ["WeightMemory", "require_activations"]


class WeightMemory:
    """Words of every weighted layer, and the faults of the registers that they pass through; refuses what does not fit.

    Parameters
    ----------
    config : ArrayConfig
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.faults: FaultMap | None = None
        self._network: QuantizedNetwork | None = None
        self._layers: dict[str, WeightedLayer] = {}
        self._words: dict[str, WeightWords] = {}
        self._stuck: dict[str, StuckBits | None] = {}

    @property
    def network(self) -> QuantizedNetwork:
        """The network in the memory; ValueError while there is none."""
        if self._network is None:
            raise ValueError("The accelerator holds no network: load one first")
        return self._network

    def load(self, network: QuantizedNetwork) -> None:
        """Hold the network as it is under the array's multiplier: its golden words, flags clear, and its biases."""
        if self.faults is not None:
            self.faults.require_fit(network, self.config)
        self._network = network = network.adapted(self.config.multiplier)
        self._layers = {layer.name: layer for layer in network.weighted}
        self._words = {layer.name: WeightWords.plain(layer.matrix.copy()) for layer in network.weighted}
        self._stuck.clear()

    def set_faults(self, faults: FaultMap | None) -> None:
        """Make these the faults (None or an empty map: none)."""
        if faults is not None and not len(faults):
            faults = None
        if faults is not None:
            if not self.config.fault_injection:
                raise ValueError("The accelerator is built without fault injection, so no fault can be set")
            faults.array_masks(self.config.rows, self.config.cols)
            if self._network is not None:
                faults.require_fit(self._network, self.config)
        self.faults = faults
        self._stuck.clear()

    @property
    def stuck_per_weight(self) -> bool:
        """Whether stored weights have stuck bits of their own, and not only the array's registers."""
        return self.faults is not None and self.faults.has_storage

    def layer(self, name: str) -> WeightedLayer:
        """Return a weighted layer; ValueError naming all where there is none of that name."""
        if name not in self._layers:
            known = ", ".join(layer.name for layer in self.network.weighted)
            raise ValueError(f"The network has no weighted layer {name!r}; it has {known}")
        return self._layers[name]

    def words(self, name: str) -> WeightWords:
        """Return the layer's words."""
        self.layer(name)
        return self._words[name]

    def write(self, name: str, words: WeightWords) -> int:
        """Replace the layer's words (a copy is kept); return how many are others than before."""
        before = self.words(name)
        shape = before.code.shape
        for part_name, dtype in (("code", np.int8), ("invert", np.bool_), ("bypass", np.bool_)):
            part = getattr(words, part_name)
            if part.shape != shape or part.dtype != dtype:
                wanted = f"{np.dtype(dtype)} {shape}"
                raise ValueError(f"The {part_name} of layer {name}'s words must be {wanted}, not {part.dtype} {part.shape}")
        if not self.config.repair and (words.invert.any() or words.bypass.any()):
            raise ValueError("The accelerator is built without the repair flags, so no word can be inverted or bypassed")
        self._words[name] = WeightWords(words.code.copy(), words.invert.copy(), words.bypass.copy())
        return before.differing(words)

    def stuck(self, name: str) -> StuckBits | None:
        """Return the stuck bits under each weight of the layer; None where there are none."""
        layer = self.layer(name)
        if name not in self._stuck:
            self._stuck[name] = None if self.faults is None else self.faults.stuck_bits(layer, self.config)
        return self._stuck[name]


def require_activations(layer: WeightedLayer, activations: torch.Tensor) -> None:
    """Raise ValueError where activations are not int8 of the shape that a layer takes."""
    if str(activations.dtype) != "torch.int8":
        raise ValueError(f"The activations of layer {layer.name} must be int8, not {activations.dtype}")
    if isinstance(layer, Convolution):
        channels = layer.weight.shape[1] * layer.groups
        fits = activations.dim() == 4 and activations.shape[1] == channels
        wanted = f"(batch, {channels}, height, width)"
    else:
        fits = activations.dim() == 2 and activations.shape[1] == layer.weight.shape[1]
        wanted = f"(batch, {layer.weight.shape[1]})"
    if not fits:
        raise ValueError(f"The activations of layer {layer.name} must be {wanted}, not {tuple(activations.shape)}")
