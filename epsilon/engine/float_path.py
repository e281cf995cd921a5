"""Sums of terms by floating-point convolutions: the engine without compiled kernels, and on devices other than the CPU.

The terms lie one after another in the reduction. float32 adds integers exactly while no partial sum can pass 2**24 times the
common power of two of all products; that bound is computed from the weights as the multipliers see them, and where it does not hold
the reduction is split, or done in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from epsilon.engine.bounds import FLOAT32_EXACT, INT32, Part, common_power_of_two, split_reduction
from epsilon.engine.operands import Operands
from epsilon.engine.shapes import LayerShape

__all__ = ["FloatPath", "float32_is_exact"]

#: Elements of mapped or unfolded activations held at a time.
ELEMENTS = 2**25


class FloatPath:
    """One layer, mapped for every term.

    The reduction is laid out as (group, term, input channel of the group[, kernel]), for activations and weights alike.

    Parameters
    ----------
    shape : LayerShape
    seen : int8 (N, K)
        The weights as the multipliers see them.
    terms : Operands
    device : torch.device
    """

    def __init__(self, shape: LayerShape, seen: np.ndarray, terms: Operands, device: torch.device) -> None:
        self.shape, self.device, self._terms = shape, device, terms
        weights = terms.weights(seen.reshape(-1, shape.channels, *shape.kernel), np.int64)
        #: What one unit of activation can add to any output's sum, per output, term and input channel.
        self._reach = np.abs(weights).sum(axis=(3, 4))
        self._limit = min(FLOAT32_EXACT * common_power_of_two(terms.a_maps, terms.b_maps), INT32)
        exact = np.float32 if float(np.abs(weights).max(initial=0)) < FLOAT32_EXACT else np.float64
        self._weights = torch.from_numpy(weights.astype(exact)).to(device)
        self._maps = [
            int(np.uint8(mask).view(np.int8)) if mask >= 0 else torch.from_numpy(a_map.astype(np.float32)).to(device)
            for mask, a_map in zip(terms.a_masks, terms.a_maps, strict=True)
        ]
        self.parts = self.plan(np.abs(terms.a_maps).max(axis=1))

    def run(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the int32 sums of int8 activations (batch, C, H, W) or (batch, K)."""
        shape = self.shape
        images = activations.to(self.device)
        images = images.reshape(*images.shape, 1, 1) if shape.linear else images
        height, width = images.shape[2:]
        size = (len(images), shape.groups * shape.outputs, *shape.sides(height, width))
        sums = torch.empty(size, dtype=torch.int32, device=self.device)
        per_image = max(1, len(self._maps) * images[:1].numel())
        step = max(1, ELEMENTS // per_image)
        with plain_float32(self.device):
            for start in range(0, len(images), step):
                sums[start : start + step] = self._run(images[start : start + step])
        return sums[:, :, 0, 0] if shape.linear else sums

    def plan(self, largest: np.ndarray) -> list[Part]:
        """Return how the reduction is cut for mapped activations up to ``largest``, int (terms,)."""
        channels = self._reach.shape[2]
        if not float32_is_exact(self.device) or self._weights.dtype == torch.float64:
            return [Part(0, channels, True)]
        # Terms stay together: an input channel's reach is the sum over its terms.
        return split_reduction((self._reach * largest.astype(np.int64).reshape(1, -1, 1)).sum(axis=1), self._limit)

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images.shape
        rows, cols = self.shape.padding
        groups = self.shape.groups
        sides = (height + 2 * rows, width + 2 * cols)
        joined = torch.empty((batch, groups, len(self._maps), channels // groups, *sides), device=self.device)
        # Code 0 of the padding goes through the maps as well.
        split = functional.pad(images, (cols, cols, rows, rows)).unflatten(1, (groups, -1))
        for term, mapping in enumerate(self._maps):
            joined[:, :, term] = split & mapping if isinstance(mapping, int) else mapping[split.long() + 128]
        parts = self.parts
        if len(parts) > 1:
            parts = self.plan(joined.abs().amax(dim=(0, 1, 3, 4, 5)).to(torch.int64).cpu().numpy())
        total = None
        for part in parts:
            sums = self._multiply(joined, part)
            total = sums if total is None else total + sums
        return total

    def _multiply(self, joined: torch.Tensor, part: Part) -> torch.Tensor:
        # (batch, group, term, channel, ...) and (N, term, channel, ...), both cut to the part's channels, terms folded in.
        dtype = torch.float64 if part.double else torch.float32
        x = joined[:, :, :, part.start : part.stop].flatten(1, 3).to(dtype)
        w = self._weights[:, :, part.start : part.stop].flatten(1, 2).to(dtype)
        if self.shape.linear:
            sums = (x.flatten(1) @ w.flatten(1).T).reshape(len(x), -1, 1, 1)
        elif x.device.type == "cpu":
            sums = functional.conv2d(x, w, stride=self.shape.stride, groups=self.shape.groups)
        else:
            sums = convolve_by_products(x, w, self.shape)
        # By way of int64: a float beyond int32 would not wrap.
        return sums.to(torch.int64).to(torch.int32) if part.double else sums.to(torch.int32)


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """Keep torch from rounding float32 products: NNPACK (where oneDNN is off) does, autocast does."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


def convolve_by_products(x: torch.Tensor, w: torch.Tensor, shape: LayerShape) -> torch.Tensor:
    """Return the convolution of padded x (batch, groups * C, H, W) with w (N, C, kh, kw) by matrix products.

    Libraries of accelerators choose Winograd or FFT for convolutions, which round.
    """
    rows, cols = ((x.shape[2 + d] - w.shape[2 + d]) // shape.stride[d] + 1 for d in range(2))
    kernels = w.reshape(shape.groups, len(w) // shape.groups, -1)
    result = x.new_empty((len(x), shape.groups, kernels.shape[1], rows * cols))
    step = max(1, ELEMENTS // (shape.groups * kernels.shape[2] * rows * cols))
    for start in range(0, len(x), step):
        patches = functional.unfold(x[start : start + step], tuple(w.shape[2:]), stride=shape.stride)
        torch.matmul(kernels, patches.unflatten(1, (shape.groups, -1)), out=result[start : start + step])
    return result.reshape(len(x), len(w), rows, cols)


@lru_cache(maxsize=8)
def float32_is_exact(device: torch.device) -> bool:
    """Return whether float32 convolutions and products on this machine give the integers that they must (a self-test)."""
    rng = np.random.default_rng(0)
    for channels, kernel, batch in ((64, 3, 1), (64, 3, 16), (1024, 1, 4), (40, 5, 2)):
        size = kernel + 5
        # As large as the bound allows: up to 1024 products, each up to 2**14, most of them odd.
        x = torch.from_numpy(rng.integers(-128, 128, (batch, channels, size, size))).to(device)
        weight = rng.integers(-128, 128, (8, channels, kernel, kernel))
        weight[0], x[0] = 127, 127
        w = torch.from_numpy(weight).to(device)
        patches = functional.unfold(x.double(), kernel).transpose(1, 2)
        wanted = (patches @ w.double().flatten(1).T).transpose(1, 2)
        shape = LayerShape(channels=channels, outputs=8, kernel=(kernel, kernel))
        with plain_float32(device):
            here = functional.conv2d if device.type == "cpu" else lambda x, w, shape=shape: convolve_by_products(x, w, shape)
            convolved = here(x.float(), w.float()).flatten(2).double()
            multiplied = (patches.float() @ w.float().flatten(1).T).transpose(1, 2).double()
        if not (torch.equal(convolved, wanted) and torch.equal(multiplied, wanted)):
            return False
    return True
