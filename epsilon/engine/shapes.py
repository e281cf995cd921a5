"""What a weighted layer asks of the engine, whatever it runs on."""

from __future__ import annotations

from dataclasses import dataclass

from epsilon.network import Convolution, WeightedLayer

__all__ = ["LayerShape"]


@dataclass(frozen=True)
class LayerShape:
    """The geometry of a layer; a linear layer is a 1x1 convolution of images of one pixel.

    ``channels`` and ``outputs`` are those of one group.
    """

    channels: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    linear: bool = False

    @classmethod
    def of(cls, layer: WeightedLayer) -> LayerShape:
        """Return the shape of a layer."""
        outputs, channels, *kernel = layer.weight.shape
        if not isinstance(layer, Convolution):
            return cls(channels=channels, outputs=outputs, linear=True)
        return cls(
            channels=channels,
            outputs=outputs // layer.groups,
            kernel=tuple(kernel),
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
        )

    @property
    def reduction(self) -> int:
        """Products that are added up in one result."""
        return self.channels * self.kernel[0] * self.kernel[1]

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the result."""
        return tuple(
            (side + 2 * pad - window) // step + 1
            for side, pad, window, step in zip((height, width), self.padding, self.kernel, self.stride, strict=True)
        )

    def macs(self, batch: int, height: int, width: int) -> int:
        """Return the products of a batch."""
        rows, cols = self.sides(height, width)
        return batch * rows * cols * self.groups * self.outputs * self.reduction
