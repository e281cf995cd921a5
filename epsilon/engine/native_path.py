"""A layer's weights in the forms that the compiled kernels read, and the choice among the kernels."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from epsilon.engine.bounds import WINOGRAD_EXACT
from epsilon.engine.native import Library, aligned
from epsilon.engine.operands import Operands
from epsilon.engine.shapes import LayerShape

__all__ = ["KERNELS", "NativePath"]

#: Kernels that multiply, and those that look products up.
KERNELS = ("direct", "depthwise", "winograd", "table", "table_sparse")
#: Rows of Winograd's transformation of a 3-tap kernel, times what makes them integers (winograd.h).
WINOGRAD = np.array([[1, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [1, -2, 4], [0, 0, 1]], np.float32)
#: What the transformations can make of one activation and one weight: the square of the greatest sum of a row's magnitudes.
A_GROWTH, B_GROWTH = 100, 49
TILE = 4
#: Winograd's kernel pays where it needs at most this part of the products, and where vectors are filled.
WORTH_WHILE = 0.75
LEAST_DEPTH = 16
#: From this many terms on looking up is faster than multiplying, where Winograd's kernel can be used and where not.
TABLE_FROM = {True: 16, False: 7}
#: Outputs and rows that ``table`` works on together (table.h), and fewer outputs than are worth it.
TABLE_OUTPUTS, FEW_OUTPUTS = 32, 8


class NativePath:
    """One layer, packed for the compiled kernels; what a kernel needs is packed when it first runs.

    Parameters
    ----------
    shape : LayerShape
    seen : int8 (N, K)
        The weights as the multipliers see them.
    terms : Operands or None
        None where only the table says what the multiplier does.
    table : int (256, 256)
    largest : int
        Bound of the layer's sums.
    library : Library
    kernel : str or None
        Use this one where it can be used (for tests); None: the fastest.
    """

    def __init__(
        self, shape: LayerShape, seen: np.ndarray, terms: Operands | None, table: np.ndarray, largest: int, library: Library,
        kernel: str | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.library = shape, library
        self._seen, self._terms, self._table, self._largest = seen, terms, table, largest
        self._packed: dict[str, tuple] = {}
        usable = self._usable()
        if kernel is not None and kernel not in usable:
            raise ValueError(f"The kernel {kernel} cannot run this layer; {', '.join(usable)} can")
        self._usable_kernels = usable if kernel is None else [kernel]

    def kernel_for(self, height: int, width: int) -> str:
        """Return the fastest kernel for images of this size."""
        usable = self._usable_kernels
        multiplying = [kernel for kernel in usable if not kernel.startswith("table")]
        rows, cols = self.shape.sides(height, width)
        points, places = len(WINOGRAD) ** 2 * -(-rows // TILE) * -(-cols // TILE), rows * cols * math.prod(self.shape.kernel)
        winograd = "winograd" in multiplying and (len(multiplying) == 1 or points <= WORTH_WHILE * places)
        if multiplying and (len(self._terms) < TABLE_FROM[winograd] or len(multiplying) == len(usable)):
            return "winograd" if winograd else next(kernel for kernel in multiplying if kernel != "winograd")
        return usable[-1]

    def run(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the int32 sums of int8 activations (batch, C, H, W) or (batch, K)."""
        kernel = self.kernel_for(*((1, 1) if self.shape.linear else activations.shape[2:]))
        if kernel not in self._packed:
            self._packed[kernel] = getattr(self, f"_pack_{kernel}")()
        weights, options = self._packed[kernel]
        if kernel == "table" and self.shape.linear and len(activations) < self.shape.outputs:
            return self._run_exchanged(activations)
        if kernel.startswith("table"):
            return self.library.convolve(kernel, self.shape, activations, weights, **options)
        maps, masks = self._maps
        return self.library.convolve(kernel, self.shape, activations, weights, maps, masks, terms=len(self._terms), **options)

    def _run_exchanged(self, activations: torch.Tensor) -> torch.Tensor:
        """Run a linear layer with activations and weights exchanged.

        What the kernel spreads out for the operands in its panels pays when there are more rows than operands.
        """
        exchanged = LayerShape(channels=self.shape.channels, outputs=len(activations), linear=True)
        table, seen = np.ascontiguousarray(self._table.T), torch.from_numpy(self._seen)
        if not exchanged.outputs:
            return torch.empty((0, self.shape.outputs), dtype=torch.int32)
        path = NativePath(exchanged, activations.numpy(), None, table, self._largest, self.library, "table")
        weights, options = path._pack_table()
        return self.library.convolve("table", exchanged, seen, weights, **options).T.contiguous()

    @property
    def _panel(self) -> int:
        return 2 * self.library.lanes

    def _usable(self) -> list[str]:
        """Return the kernels that can run this layer exactly; the faster of two that multiply by rows comes first."""
        shape, terms, found = self.shape, self._terms, []
        if terms is not None and terms.fit():
            if shape.channels == shape.outputs == 1 and shape.groups > 1:
                found.append("depthwise")
            found.append("direct")
            same = shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.groups == 1
            wide = shape.channels * len(terms) >= LEAST_DEPTH
            if same and wide and terms.fit(A_GROWTH, B_GROWTH) and self._largest < WINOGRAD_EXACT:
                found.append("winograd")
        sparse = shape.outputs < FEW_OUTPUTS
        return [*found, *(("table", "table_sparse") if sparse else ("table_sparse", "table"))]

    @cached_property
    def _maps(self) -> tuple[torch.Tensor, torch.Tensor]:
        return aligned(self._terms.a_maps.astype(np.int16)), aligned(self._terms.a_masks)

    @property
    def _weights(self) -> np.ndarray:
        """The mapped weights, int16 (groups, outputs, terms, channels, kernel rows, kernel columns)."""
        shape = self.shape
        sides = (shape.groups, shape.outputs, len(self._terms), shape.channels, *shape.kernel)
        return self._terms.weights(self._seen).reshape(sides)

    def _pack_direct(self) -> tuple:
        groups, outputs, terms, channels, rows, cols = (weights := self._weights).shape
        run = cols * terms * channels
        padded = np.zeros((groups, up(outputs, self._panel), rows, up(run, 2)), np.int16)
        padded[:, :outputs, :, :run] = weights.transpose(0, 1, 4, 5, 2, 3).reshape(groups, outputs, rows, run)
        panels = padded.reshape(groups, -1, self._panel, rows, up(run, 2) // 2, 2).transpose(0, 1, 3, 4, 2, 5)
        return aligned(panels), {"depth": terms * channels}

    def _pack_depthwise(self) -> tuple:
        groups, _, terms, _, rows, cols = (weights := self._weights).shape
        taps = rows * cols * terms
        padded = np.zeros((up(taps, 2), up(groups, self._panel)), np.int16)
        padded[:taps, :groups] = weights[:, 0, :, 0].transpose(2, 3, 1, 0).reshape(taps, groups)
        blocks = padded.reshape(-1, 2, padded.shape[1] // self._panel, self._panel // 8, 2, 4).transpose(0, 2, 4, 3, 5, 1)
        return aligned(blocks), {"depth": terms * groups}

    def _pack_winograd(self) -> tuple:
        _, outputs, terms, channels, rows, cols = (weights := self._weights).shape
        depth, points = up(terms * channels, self._panel), len(WINOGRAD) ** 2
        panels = up(outputs, self._panel) // self._panel
        packed = torch.zeros((panels, points, depth // 2, self._panel, 2), dtype=torch.int16)
        view = packed.numpy()
        for panel in range(panels):
            # float32 holds these integers, and numpy multiplies only floats fast.
            kernels = weights[0, panel * self._panel : (panel + 1) * self._panel].reshape(-1, terms * channels, rows, cols)
            transformed = WINOGRAD @ kernels.astype(np.float32) @ WINOGRAD.T
            padded = np.zeros((len(kernels), depth, points), np.int16)
            padded[:, : terms * channels] = transformed.reshape(len(kernels), -1, points)
            view[panel, :, :, : len(kernels)] = padded.reshape(len(kernels), depth // 2, 2, points).transpose(3, 1, 0, 2)
        return packed, {"depth": depth}

    def _pack_table(self) -> tuple:
        shape = self.shape
        codes = self._codes.reshape(shape.groups, shape.outputs, shape.channels, -1).swapaxes(2, 3)
        padded = np.zeros((shape.groups, up(shape.outputs, TABLE_OUTPUTS), shape.reduction), np.uint8)
        padded[:, : shape.outputs] = codes.reshape(shape.groups, shape.outputs, shape.reduction)
        panels = padded.reshape(shape.groups, -1, TABLE_OUTPUTS, shape.reduction).swapaxes(2, 3)
        return aligned(panels), self._products()

    def _pack_table_sparse(self) -> tuple:
        return aligned(self._codes), self._products()

    @property
    def _codes(self) -> np.ndarray:
        return (self._seen.astype(np.int16) + 128).astype(np.uint8)

    def _products(self) -> dict:
        """Return the table by weight, moved so that its values fit int16, and what that takes from every sum."""
        table = self._table.astype(np.int64)
        low, high = int(table.min()), int(table.max())
        if high - low >= 2**16:
            raise ValueError(f"The products of a multiplier must lie within 65536 of each other, not between {low} and {high}")
        middle = 0 if low >= -(2**15) and high < 2**15 else low + 2**15
        columns = aligned(np.ascontiguousarray((table - middle).T.astype(np.int16)))
        return {"maps": columns, "depth": self.shape.channels, "start": wrapped(middle * self.shape.reduction)}


def up(value: int, step: int) -> int:
    """Return the next multiple of ``step``."""
    return -(-value // step) * step


def wrapped(value: int) -> int:
    """Return a sum as 32 bits hold it."""
    return (value + 2**31) % 2**32 - 2**31
