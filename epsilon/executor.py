"""Runs a batch of images through a quantised network, one exit after another, on any accelerator.

The accelerator does the weighted layers; everything else (bias, requantisation, pooling, addition, padding, exits) is done here, so
it is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch

from epsilon import integer
from epsilon.accelerator import Accelerator
from epsilon.energy import Events
from epsilon.network import Add, AvgPool2d, Exit, Flatten, Layer, MaxPool2d, Pad2d, QuantizedNetwork, Relu, WeightedLayer
from epsilon.validation import output_shapes

__all__ = ["Execution", "ImageStream", "Observer", "ancestors", "encode"]

INPUT = "input"
Result = TypeVar("Result")

#: Called after every weighted layer with its name, its int8 activations and its int32 accumulators (without bias).
Observer = Callable[[str, torch.Tensor, torch.Tensor], None]


def encode(network: QuantizedNetwork, images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return the codes of 8-bit images, int8 (batch, C, H, W).

    Parameters
    ----------
    images : uint8 (batch, C, H, W)

    Raises
    ------
    ValueError
        When the images are not 8-bit or not of the network's input shape.
    """
    pixels = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    if pixels.dtype != torch.uint8:
        raise ValueError(f"Images must be 8-bit unsigned integers, not {str(pixels.dtype).removeprefix('torch.')}")
    shape = tuple(network.input_shape)
    if pixels.dim() != 4 or tuple(pixels.shape[1:]) != shape:
        wanted = f"(batch, {', '.join(map(str, shape))})"
        raise ValueError(f"Images of network {network.name!r} must have the shape {wanted}, not {tuple(pixels.shape)}")
    codes = torch.empty(pixels.shape, dtype=torch.int8, device=pixels.device)
    for channel, table in enumerate(torch.from_numpy(network.input_table).to(pixels.device)):
        # One channel at a time, since indices take eight times the memory of the pixels.
        codes[:, channel] = table[pixels[:, channel].to(torch.int64)]
    return codes


def ancestors(network: QuantizedNetwork, names: set[str]) -> set[str]:
    """Return the names of these layers and of all that they depend on."""
    found = set(names)
    for layer in reversed(network.layers):
        if layer.name in found:
            found.update(layer.inputs)
    return found


class Execution:
    """The lazy run of one batch: layers run when an exit first needs them, each once.

    Parameters
    ----------
    accelerator : Accelerator
        With the network loaded.
    codes : int8 (batch, C, H, W)
        From ``encode``.
    observer : callable, optional
        See ``Observer``.

    Raises
    ------
    ValueError
        When the codes are not int8 or not of the network's input shape.
    """

    def __init__(self, accelerator: Accelerator, codes: torch.Tensor, observer: Observer | None = None) -> None:
        self._accelerator = accelerator
        self._network = accelerator.network
        self._observer = observer
        shape = tuple(self._network.input_shape)
        if not isinstance(codes, torch.Tensor) or codes.dtype != torch.int8 or tuple(codes.shape[1:]) != shape:
            given = f"{codes.dtype} {tuple(codes.shape)}" if isinstance(codes, torch.Tensor) else type(codes).__name__
            raise ValueError(f"Codes must be torch.int8 (batch, {', '.join(map(str, shape))}), not {given}")
        self._batch = codes.shape[0]
        self._values: dict[str, torch.Tensor] = {INPUT: codes}
        self._done: set[str] = set()
        self._cycles = 0
        self._events = Events()

    @classmethod
    def resumed(cls, accelerator: Accelerator, layer: str, values: Mapping[str, torch.Tensor]) -> Execution:
        """Return a run that goes on at a layer, given what ``before`` returned for it."""
        network = accelerator.network
        first = next(iter(values.values()))
        execution = cls(accelerator, torch.empty((len(first), *network.input_shape), dtype=torch.int8, device=first.device))
        execution._values = dict(values)
        execution._done = {earlier.name for earlier in network.layers[: network.layers.index(network[layer])]}
        return execution

    @property
    def batch(self) -> int:
        """Images still in the batch."""
        return self._batch

    @property
    def cycles(self) -> int | float:
        """Run cycles spent so far on each image that is still in the batch."""
        return self._cycles

    @property
    def events(self) -> Events:
        """Events so far of each image that is still in the batch."""
        return self._events

    def exit(self, index: int) -> torch.Tensor:
        """Return the logits of an exit, float64 (batch, classes), running the layers it needs that have not run.

        Parameters
        ----------
        index : int
            0 for the first exit; -1 for the final classifier.
        """
        exit_layer = self._network.exits[index]
        needed = ancestors(self._network, {exit_layer.name})
        for layer in self._network.layers:
            if layer.name in needed:
                self._advance(layer)
        return self._values[exit_layer.name]

    def before(self, layer: str) -> dict[str, torch.Tensor]:
        """Run what leads to a layer and to those after it; return the earlier results that they read, by name."""
        layers = self._network.layers
        at = layers.index(self._network[layer])
        read = {name for later in layers[at:] for name in later.inputs}
        needed = ancestors(self._network, read)
        for earlier in layers[:at]:
            if earlier.name in needed:
                self._advance(earlier)
        return {name: value for name, value in self._values.items() if name in read}

    def narrow(self, keep: torch.Tensor | np.ndarray) -> None:
        """Drop the images that are not kept; later layers run on the rest alone.

        Parameters
        ----------
        keep : bool (batch,)
        """
        keep = torch.as_tensor(keep)
        if keep.dtype != torch.bool or tuple(keep.shape) != (self._batch,):
            raise ValueError(f"Images are kept by a boolean each ({self._batch}), not {keep.dtype} {tuple(keep.shape)}")
        if keep.all():
            return
        self._values = {name: value[keep.to(value.device)] for name, value in self._values.items()}
        self._batch = int(keep.sum())

    def _advance(self, layer: Layer) -> None:
        """Run a layer whose inputs are there, unless it has run."""
        if layer.name in self._done:
            return
        self._values[layer.name] = self._run(layer, [self._values[name] for name in layer.inputs])
        self._done.add(layer.name)
        for name in set(layer.inputs):
            self._release(name)

    def _release(self, name: str) -> None:
        """Forget a result that no layer will read any more."""
        if all(layer.name in self._done for layer in self._network.layers if name in layer.inputs):
            del self._values[name]

    def _run(self, layer: Layer, values: list[torch.Tensor]) -> torch.Tensor:
        if isinstance(layer, Add):
            return integer.add(*values, layer)
        (value,) = values
        if isinstance(layer, WeightedLayer):
            return self._run_weighted(layer, value)
        if isinstance(layer, MaxPool2d):
            return integer.max_pool2d(value, layer.kernel, layer.stride)
        if isinstance(layer, AvgPool2d):
            return integer.avg_pool2d(value, layer.kernel, layer.stride, layer.requantization, layer.bias)
        if isinstance(layer, Pad2d):
            return integer.pad2d(value, layer.padding, layer.value)
        if isinstance(layer, Relu):
            return integer.relu(value)
        if isinstance(layer, Flatten):
            return value.flatten(1)
        assert isinstance(layer, Exit)
        return value.to(torch.float64) * torch.from_numpy(layer.scale).to(value.device)

    def _run_weighted(self, layer: WeightedLayer, value: torch.Tensor) -> torch.Tensor:
        if not self._batch:
            return self._nothing(layer, value)
        accumulators = self._counted(lambda: self._accelerator.run_layer(layer.name, value))
        if self._observer is not None:
            self._observer(layer.name, value, accumulators)
        bias = torch.from_numpy(layer.bias).to(accumulators.device)
        if layer.requantization is not None:
            return integer.requantize(accumulators, layer.requantization, bias)
        return accumulators + bias.reshape(1, -1, *(1,) * (accumulators.dim() - 2))

    def _counted(self, operation: Callable[[], Result]) -> Result:
        """Do what takes the batch through a layer, and note the cycles and events that it spent on each image."""
        before = self._accelerator.counters()
        result = operation()
        after = self._accelerator.counters()
        spent = after.run - before.run
        self._cycles += spent // self._batch if spent % self._batch == 0 else spent / self._batch
        self._events += (after.events - before.events).per(self._batch)
        return result

    def _nothing(self, layer: WeightedLayer, value: torch.Tensor) -> torch.Tensor:
        """Return the result for no image, without asking the accelerator."""
        dtype = torch.int32 if layer.requantization is None else torch.int8
        sides = output_shapes(self._network)[layer.name]
        return torch.empty((0, *sides), dtype=dtype, device=value.device)


class ImageStream:
    """The images of a stream, and how a run of some of them begins.

    Parameters
    ----------
    codes : int8 (images, C, H, W)
        From ``encode``.
    """

    def __init__(self, codes: torch.Tensor) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    def execution(self, accelerator: Accelerator, start: int, stop: int) -> Execution:
        """Return the run of the images from ``start`` to before ``stop``."""
        return Execution(accelerator, self._codes[start:stop])
