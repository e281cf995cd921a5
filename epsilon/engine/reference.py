"""The golden definition of a layer's sums, slow and plain: every product from the multiplier's table, added up in 64 bits."""

from __future__ import annotations

import numpy as np

from epsilon.engine.shapes import LayerShape

__all__ = ["reference_sums"]


def reference_sums(shape: LayerShape, seen: np.ndarray, table: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Return the sums of a batch, int64 (batch, N, OH, OW), or (batch, N) for a linear layer.

    Parameters
    ----------
    seen : int8 (N, K)
    table : int (256, 256)
        Index ``[activation + 128, weight + 128]``.
    activations : int8 (batch, C, H, W) or (batch, K)
        Padding is activation 0, which goes through the multiplier like any other.
    """
    images = activations.reshape(*activations.shape, 1, 1) if shape.linear else activations
    batch, _, height, width = images.shape
    rows, cols = shape.sides(height, width)
    edges = [(0, 0), (0, 0), *((pad, pad) for pad in shape.padding)]
    index = np.pad(images, edges).astype(np.intp) + 128
    weights = seen.astype(np.intp).reshape(shape.groups, shape.outputs, shape.channels, *shape.kernel) + 128
    sums = np.zeros((batch, shape.groups, shape.outputs, rows, cols), dtype=np.int64)
    for group in range(shape.groups):
        for channel in range(shape.channels):
            plane = index[:, group * shape.channels + channel]
            for i in range(shape.kernel[0]):
                for j in range(shape.kernel[1]):
                    last_row, last_col = i + (rows - 1) * shape.stride[0], j + (cols - 1) * shape.stride[1]
                    taken = plane[:, i : last_row + 1 : shape.stride[0], j : last_col + 1 : shape.stride[1]]
                    for output in range(shape.outputs):
                        sums[:, group, output] += table[taken, weights[group, output, channel, i, j]]
    result = sums.reshape(batch, shape.groups * shape.outputs, rows, cols)
    return result[:, :, 0, 0] if shape.linear else result
