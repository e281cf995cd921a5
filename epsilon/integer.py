"""Integer arithmetic of the network outside the array: requantisation, pooling, addition, padding, ReLU; exact on every device.

The golden definition of the rounding stands in ``epsilon.network``; the tests compare this module with plain Python integers.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch.nn import functional

from epsilon.engine import native
from epsilon.network import Add, Requantization

__all__ = ["add", "avg_pool2d", "max_pool2d", "pad2d", "relu", "requantize", "window_sum2d"]

#: Elements that are widened to 64 bits at a time, so that a large batch does not take eight times its memory.
CHUNK_ELEMENTS = 1 << 20


def requantize(sums: torch.Tensor, requantization: Requantization, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``clamp(((sums + bias) * multiplier + 2**(shift - 1) >> shift) + zero, low, high)`` as codes.

    Parameters
    ----------
    sums : int32 (batch, N) or (batch, N, H, W)
        Accumulators, or the sums of pooling windows.
    requantization : Requantization
        Its multiplier and shift are per channel N, or one for all.
    bias : int32 (N,) or None
        None adds nothing.

    Returns
    -------
    int8, the shape of ``sums``. No product overflows: ``|sums * multiplier| < 2**62`` and half of the last place is at most 2**61.
    """
    channels = sums.shape[1]
    multiplier, shift = (
        torch.from_numpy(np.broadcast_to(values, channels).astype(dtype))
        for values, dtype in ((requantization.multiplier, np.int32), (requantization.shift, np.int64))
    )
    if bias is None:
        bias = torch.zeros(channels, dtype=torch.int32, device=sums.device)
    library = native.best() if sums.device.type == "cpu" else None
    if library is not None:
        zero = requantization.zero
        # The kernel knows no zero: it clamps to the range without it, and bytes wrap, there and when it is added.
        codes = library.requantize(sums, bias, multiplier, shift, requantization.low - zero, requantization.high - zero)
        return codes.add_(zero) if zero else codes
    return _requantize_by_torch(sums, bias, multiplier, shift, requantization)


def _requantize_by_torch(
    sums: torch.Tensor, bias: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor, requantization: Requantization
) -> torch.Tensor:
    """Do the same in torch, on any device."""
    shape = (1, -1) + (1,) * (sums.dim() - 2)
    bias = bias.reshape(shape)
    multiplier, shift = (values.to(sums.device, torch.int64).reshape(shape) for values in (multiplier, shift))
    half = torch.bitwise_left_shift(torch.ones_like(shift), shift - 1)
    codes = torch.empty_like(sums, dtype=torch.int8)
    step = max(1, CHUNK_ELEMENTS // max(1, sums[:1].numel()))
    for start in range(0, sums.shape[0], step):
        wide = (sums[start : start + step] + bias).to(torch.int64)
        wide = wide.mul_(multiplier).add_(half).bitwise_right_shift_(shift).add_(requantization.zero)
        codes[start : start + step] = wide.clamp_(requantization.low, requantization.high)
    return codes


def max_pool2d(codes: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> torch.Tensor:
    """Return the maximum over windows of ``codes`` (batch, C, H, W), same dtype; windows beyond the edge are dropped."""
    return reduce(torch.maximum, _window_taps(codes, kernel, stride))


def window_sum2d(codes: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> torch.Tensor:
    """Return the sum over windows of int8 ``codes`` (batch, C, H, W) as int32; windows beyond the edge are dropped."""
    return reduce(torch.add, _window_taps(codes.to(torch.int32), kernel, stride))


def avg_pool2d(
    codes: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], requantization: Requantization, bias: int = 0
) -> torch.Tensor:
    """Return the requantised sum over windows of int8 ``codes`` plus ``bias``; the requantisation's scale holds the division."""
    return requantize(window_sum2d(codes, kernel, stride) + bias, requantization)


def add(first: torch.Tensor, second: torch.Tensor, layer: Add) -> torch.Tensor:
    """Return the sum of two int8 tensors of equal shape as ``layer`` scales it, int8; see ``Add`` for the formula."""
    offset = layer.bias + (1 << (layer.shift - 1))
    library = native.best() if first.device.type == "cpu" else None
    if library is not None:
        factors = int(layer.multiplier[0]), int(layer.multiplier[1])
        return library.add(first, second, factors, offset, layer.shift, layer.low, layer.high)
    return _add_by_torch(first, second, layer, offset)


def _add_by_torch(first: torch.Tensor, second: torch.Tensor, layer: Add, offset: int) -> torch.Tensor:
    """Do the same in torch, on any device."""
    codes = torch.empty(first.shape, dtype=torch.int8, device=first.device)
    step = max(1, CHUNK_ELEMENTS // max(1, first[:1].numel()))
    for start in range(0, first.shape[0], step):
        part = slice(start, start + step)
        wide = first[part].to(torch.int64).mul_(int(layer.multiplier[0]))
        wide = wide.add_(second[part].to(torch.int64).mul_(int(layer.multiplier[1]))).add_(offset).bitwise_right_shift_(layer.shift)
        codes[part] = wide.clamp_(layer.low, layer.high)
    return codes


def pad2d(codes: torch.Tensor, padding: tuple[int, int, int, int], value: int = 0) -> torch.Tensor:
    """Return ``codes`` (batch, C, H, W), same dtype, padded by (top, bottom, left, right) with ``value``."""
    top, bottom, left, right = padding
    return functional.pad(codes, (left, right, top, bottom), value=value)


def relu(codes: torch.Tensor) -> torch.Tensor:
    """Return max(codes, 0), same dtype."""
    return codes.clamp(min=0)


def _window_taps(codes: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> list[torch.Tensor]:
    """Return, for each place in the window, the elements that it takes over all windows: views (batch, C, OH, OW)."""
    height, width = codes.shape[-2:]
    out_height = (height - kernel[0]) // stride[0] + 1
    out_width = (width - kernel[1]) // stride[1] + 1
    return [
        codes[..., i : i + (out_height - 1) * stride[0] + 1 : stride[0], j : j + (out_width - 1) * stride[1] + 1 : stride[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
