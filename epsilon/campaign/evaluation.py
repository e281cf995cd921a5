"""Logits of many faulty networks on one set of images, each computed once.

What an exit answers depends on the weights that the multipliers see, and on nothing else. So logits are kept by the *state* of the
weights: which layers differ from the golden ones, and how. Techniques that run on the same weights share them, a repair that
restores the golden weights costs nothing, and layers before the first one that differs have run once and for all. The controller
runs as it does everywhere, on the stream that is made here.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch

from epsilon.accelerator import Counters
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import Execution, ImageStream, ancestors
from epsilon.network import QuantizedNetwork, WeightedLayer
from epsilon.validation import output_shapes

__all__ = ["BATCH", "Evaluations"]

#: Images that run together: enough to fill the kernels, few enough for the caches.
BATCH = 250
#: Bytes of activations that are kept for all images, at the layers where states begin to differ.
KEPT_BYTES = 1 << 30

State = frozenset[tuple[str, bytes]]


class Evaluations:
    """Logits of a network under one multiplier on fixed images.

    Parameters
    ----------
    network : QuantizedNetwork
    config : ArrayConfig
    codes : int8 (images, C, H, W)
        From ``epsilon.executor.encode``.
    kept_bytes : int
        Most memory for activations.
    """

    def __init__(
        self, network: QuantizedNetwork, config: ArrayConfig, codes: torch.Tensor, *, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self.network = network.adapted(config.multiplier)
        self.config = config
        self.codes = codes
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._clean = Emulator(config)
        self._clean.load(self.network)
        self._golden = {layer.name: self._clean.digest(layer.name) for layer in self.network.weighted}
        self._needed = [ancestors(self.network, {layer.name}) for layer in self.network.exits]
        shapes = output_shapes(self.network)
        self.input_shapes = {layer.name: shapes[layer.inputs[0]] for layer in self.network.weighted}
        self._states: dict[State, _Logits] = {}
        self._of_clean = self._states[frozenset()] = _Logits(self, frozenset())

    def stream(self) -> ImageStream:
        """Return the images as a stream for controllers on an ``Emulator``."""
        return _Stream(self)

    def forget(self) -> None:
        """Drop all states but the golden one."""
        self._states = {frozenset(): self._of_clean}

    def state(self, emulator: Emulator) -> _Logits:
        """Return the logits under an emulator's weights as they are now."""
        differ = frozenset((name, digest) for name, golden in self._golden.items() if (digest := emulator.digest(name)) != golden)
        if differ not in self._states:
            self._states[differ] = _Logits(self, frozenset(name for name, _ in differ))
        found = self._states[differ]
        found.weights.other = emulator
        return found

    def before(self, layer: str, images: np.ndarray) -> dict[str, torch.Tensor]:
        """Return what golden layers hand to a layer and those after it, for some images; see ``Execution.before``."""
        if layer not in self._kept:
            kept = self._keep(layer)
            if kept is None:
                return Execution(_Uncounted(self._clean), self.codes[torch.from_numpy(images)]).before(layer)
            self._kept[layer] = kept
        self._kept.move_to_end(layer)
        chosen = torch.from_numpy(images)
        return {name: value[chosen] for name, value in self._kept[layer].items()}

    def _keep(self, layer: str) -> dict[str, torch.Tensor] | None:
        """Run all images to a layer and make room for what it reads; None where that is too much."""
        found: dict[str, torch.Tensor] = {}
        for start in range(0, len(self.codes), BATCH):
            codes = self.codes[start : start + BATCH]
            values = Execution(_Uncounted(self._clean), codes).before(layer)
            if not found:
                if sum(value.nbytes for value in values.values()) * len(self.codes) > self._kept_bytes * len(codes):
                    return None
                found = {
                    name: torch.empty((len(self.codes), *value.shape[1:]), dtype=value.dtype) for name, value in values.items()
                }
            for name, value in values.items():
                found[name][start : start + BATCH] = value
        size = sum(value.nbytes for value in found.values())
        while self._kept and size + sum(value.nbytes for kept in self._kept.values() for value in kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)
        return found


class _Logits:
    """The logits of one state, as far as they are known.

    Parameters
    ----------
    changed : set of str
        Layers that are not golden.

    Members
    -------
    weights : _Uncounted
        Its ``other`` emulator has to have the weights of the state whenever logits are missing.
    """

    def __init__(self, shared: Evaluations, changed: frozenset[str]) -> None:
        network, images = shared.network, len(shared.codes)
        self._shared = shared
        self._first = next((layer.name for layer in network.layers if layer.name in changed), network.layers[0].name)
        self.weights = _Uncounted(shared._clean, changed)
        # Exits that no changed layer leads to answer as the golden network does.
        self._golden = [bool(changed) and not needed & changed for needed in shared._needed]
        self._values = np.zeros((len(network.exits), images, network.classes))
        self._known = np.zeros((len(network.exits), images), dtype=bool)
        self._running: tuple[np.ndarray, Execution] | None = None

    def at(self, exit_index: int, images: np.ndarray) -> np.ndarray:
        """Return the logits of an exit, float64 (images, classes), for ascending indices of images; run those that are missing."""
        if self._golden[exit_index]:
            return self._shared._of_clean.at(exit_index, images)
        missing = images[~self._known[exit_index, images]]
        for start in range(0, len(missing), BATCH):
            self._run(exit_index, missing[start : start + BATCH])
        return self._values[exit_index, images]

    def _run(self, exit_index: int, images: np.ndarray) -> None:
        execution = self._execution(images)
        # Earlier exits come almost for nothing on the way, and other techniques ask for them.
        for index in range(exit_index + 1):
            if not self._golden[index] and not self._known[index, images].all():
                self._values[index, images] = execution.exit(index).numpy()
                self._known[index, images] = True

    def _execution(self, images: np.ndarray) -> Execution:
        """Return the run of the images: that of the last call, if it has all of them, else a new one."""
        if self._running is not None:
            batch, execution = self._running
            kept = np.isin(batch, images, assume_unique=True)
            if np.count_nonzero(kept) == len(images):
                execution.narrow(torch.from_numpy(kept))
                self._running = images, execution
                return execution
        values = self._shared.before(self._first, images)
        self._running = images, Execution.resumed(self.weights, self._first, values)
        return self._running[1]


class _Stream(ImageStream):
    """The images as a stream whose runs take their logits from what is known."""

    def __init__(self, shared: Evaluations) -> None:
        super().__init__(shared.codes)
        self._shared = shared

    def execution(self, accelerator: Emulator, start: int, stop: int) -> Execution:
        return _Known(self._shared, accelerator, start, stop)


class _Known(Execution):
    """A run whose logits are looked up; layers are counted as if they ran."""

    def __init__(self, shared: Evaluations, emulator: Emulator, start: int, stop: int) -> None:
        super().__init__(emulator, shared.codes[start:stop])
        self._values.clear()
        self._shared, self._images = shared, np.arange(start, stop)
        self._logits = shared.state(emulator)

    def exit(self, index: int) -> torch.Tensor:
        index %= len(self._network.exits)  # -1 is the last one
        needed = self._shared._needed[index]
        for layer in self._network.weighted:
            if layer.name in needed and layer.name not in self._done:
                self._done.add(layer.name)
                if self._batch:
                    self._count(layer)
        return torch.from_numpy(self._logits.at(index, self._images))

    def narrow(self, keep: torch.Tensor | np.ndarray) -> None:
        super().narrow(keep)
        self._images = self._images[np.asarray(keep)]

    def _count(self, layer: WeightedLayer) -> None:
        shape = self._shared.input_shapes[layer.name]
        self._counted(lambda: self._accelerator.count_run(layer.name, shape, self._batch))


class _Uncounted:
    """The products of an emulator, of changed layers those of another one, and no cycles."""

    def __init__(self, clean: Emulator, changed: frozenset[str] = frozenset()) -> None:
        self.network = clean.network
        self._clean, self._changed = clean, changed
        self.other: Emulator | None = None

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        return (self.other if layer in self._changed else self._clean).multiply(layer, activations)

    def counters(self) -> Counters:
        return Counters()
