"""Sums of products that only a table knows, in torch: rows of an embedding, added up in float32 or float64."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from epsilon.engine.bounds import FLOAT32_EXACT
from epsilon.engine.float_path import plain_float32
from epsilon.engine.shapes import LayerShape

__all__ = ["TablePath"]

#: Products that are spread out at a time, and indices that are.
PRODUCTS, INDICES = 2**22, 2**23
CODES = 256


class TablePath:
    """One layer whose multiplier is looked up.

    For every place of the reduction the products of the 256 activations with the place's weights are a table of their own; the sum
    of a result is the sum of one row of each.

    Parameters
    ----------
    shape : LayerShape
    seen : int8 (N, K)
    table : int (256, 256)
    device : torch.device
    """

    def __init__(self, shape: LayerShape, seen: np.ndarray, table: np.ndarray, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self._weights = torch.from_numpy(seen.astype(np.int64) + 128).to(device).reshape(shape.groups, shape.outputs, -1)
        self._table = torch.from_numpy(table.astype(np.float64)).to(device)
        self._most = max(1, int(np.abs(table.astype(np.int64)).max()))

    def run(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the int32 sums of int8 activations (batch, C, H, W) or (batch, K)."""
        shape = self.shape
        images = activations.to(self.device)
        images = images.reshape(*images.shape, 1, 1) if shape.linear else images
        sides = shape.sides(*images.shape[2:])
        sums = torch.empty((len(images), shape.groups, shape.outputs, *sides), dtype=torch.int32, device=self.device)
        step = max(1, INDICES // max(1, shape.reduction * sides[0] * sides[1]))
        with plain_float32(self.device):
            for start in range(0, len(images), step):
                part = functional.pad(images[start : start + step], (shape.padding[1],) * 2 + (shape.padding[0],) * 2)
                # (batch, groups, channels, OH, OW, kh, kw), then a row of codes per result.
                windows = part.unfold(2, shape.kernel[0], shape.stride[0]).unfold(3, shape.kernel[1], shape.stride[1])
                windows = windows.unflatten(1, (shape.groups, -1))
                for group in range(shape.groups):
                    codes = windows[:, group].permute(0, 2, 3, 1, 4, 5).reshape(-1, shape.reduction)
                    added = self._add_up(codes.to(torch.int64) + 128, self._weights[group])
                    sums[start : start + step, group] = added.reshape(len(part), *sides, -1).movedim(-1, 1)
        result = sums.flatten(1, 2)
        return result[:, :, 0, 0] if shape.linear else result

    def _add_up(self, codes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the sums (rows, N) of the products of codes (rows, K) with weights (N, K), both as indices."""
        outputs, reduction = weights.shape
        total = torch.zeros((len(codes), outputs), dtype=torch.int64, device=self.device)
        places = max(1, min(reduction, PRODUCTS // (CODES * outputs)))
        # Within the bound float32 adds up exactly; places are few enough that a part rarely is beyond it.
        dtype = torch.float32 if self._most * places < FLOAT32_EXACT else torch.float64
        for start in range(0, reduction, places):
            chosen = weights[:, start : start + places]
            count = chosen.shape[1]
            products = self._table[:, chosen.T].movedim(0, 1).reshape(count * CODES, outputs).to(dtype)
            rows = codes[:, start : start + places] + CODES * torch.arange(count, device=self.device)
            total += functional.embedding_bag(rows, products, mode="sum").to(torch.int64)
        return total.to(torch.int32)
