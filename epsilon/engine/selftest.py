"""Whether the compiled kernels give, on this processor, the integers that they must: extremes, odd sizes, every kernel."""

from __future__ import annotations

import numpy as np
import torch

from epsilon.engine.bounds import largest_sum
from epsilon.engine.native import Library
from epsilon.engine.native_path import NativePath
from epsilon.engine.operands import Operands
from epsilon.engine.reference import reference_sums
from epsilon.engine.shapes import LayerShape

__all__ = ["failing_kernel"]

CODES = np.arange(-128, 128)
#: Channels that fill no vector, outputs that fill no panel, sides that fill no tile.
SHAPES = {
    "direct": LayerShape(channels=19, outputs=37, kernel=(2, 3), stride=(2, 1), padding=(1, 2), groups=2),
    "winograd": LayerShape(channels=35, outputs=37, kernel=(3, 3), padding=(1, 1)),
    "depthwise": LayerShape(channels=1, outputs=1, kernel=(3, 3), stride=(1, 2), padding=(1, 1), groups=67),
    "table": LayerShape(channels=9, outputs=37, kernel=(2, 3), padding=(1, 1)),
    "table_sparse": LayerShape(channels=2, outputs=3, kernel=(3, 2), padding=(1, 0), groups=5),
}
IMAGES, HEIGHT, WIDTH = 5, 7, 9


def failing_kernel(library: Library) -> str | None:
    """Return the name of a kernel that gives a wrong integer; None where all are right."""
    rng = np.random.default_rng(0)
    a_maps, b_maps = np.stack([CODES, CODES**2 // 150 + 1]), np.stack([CODES, -(CODES // 3)])
    terms = Operands(a_maps, b_maps, a_masks=np.array([255, -1], np.int32))
    table = np.einsum("ta,tb->ab", terms.a_maps, terms.b_maps)
    for kernel, shape in SHAPES.items():
        seen = rng.integers(-128, 128, (shape.groups * shape.outputs, shape.reduction)).astype(np.int8)
        activations = rng.integers(-128, 128, (IMAGES, shape.groups * shape.channels, HEIGHT, WIDTH)).astype(np.int8)
        # The greatest products, next to each other, of both signs.
        seen[: len(seen) // 2], seen[0], activations[0], activations[1] = -128, 127, -128, 127
        path = NativePath(shape, seen, terms, table, largest_sum(seen, table), library, kernel)
        sums = path.run(torch.from_numpy(activations)).numpy()
        if not np.array_equal(sums, reference_sums(shape, seen, table, activations)):
            return kernel
    if not _requantizes(library):
        return "requantize"
    return None if _adds(library) else "add"


def _requantizes(library: Library) -> bool:
    """Compare with integers that have no width; ties and the ends of every range among them."""
    rng = np.random.default_rng(1)
    channels = 37
    sums = rng.integers(-(2**31), 2**31, (6, channels, 3, 1)).astype(np.int32)
    sums[0], sums[1], sums[2] = -(2**31), 2**31 - 1, rng.integers(-200, 200, (channels, 3, 1))
    bias = rng.integers(-100, 100, channels).astype(np.int32)
    bias[:9] = 0
    multiplier = rng.integers(0, 2**31, channels).astype(np.int32)
    shift = rng.integers(1, 63, channels)
    multiplier[:4], shift[:4] = (2**31 - 1, 2**31 - 1, 1, 0), (62, 1, 1, 62)
    total = (sums + bias.reshape(1, -1, 1, 1)).astype(np.int32)
    wanted = [
        max(-100, min(90, (int(value) * int(multiplier[c]) + (1 << (int(shift[c]) - 1))) >> int(shift[c])))
        for image in total
        for c in range(channels)
        for value in image[c].flat
    ]
    tensors = [torch.from_numpy(values) for values in (bias, multiplier, shift)]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = torch.from_numpy(sums).contiguous(memory_format=memory_format)
        if library.requantize(given, *tensors, -100, 90).flatten().tolist() != wanted:
            return False
    return True


def _adds(library: Library) -> bool:
    """Compare with integers that have no width, over a grid of codes with both ends."""
    first, second = (
        values.to(torch.int8).contiguous() for values in torch.meshgrid(*[torch.arange(-128, 128, 3)] * 2, indexing="ij")
    )
    for multiplier, offset, shift in (((2**31 - 1, 2**31 - 1), 1 << 61, 62), ((3, 5), 2, 2), ((1_500_000_000, 7), -(5 << 31), 31)):
        wanted = [
            max(-100, min(90, (a * multiplier[0] + b * multiplier[1] + offset) >> shift))
            for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)
        ]
        if library.add(first, second, multiplier, offset, shift, -100, 90).flatten().tolist() != wanted:
            return False
    return True
