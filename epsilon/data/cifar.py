"""CIFAR-10 and CIFAR-100, from lossless WebP sheets.

Ref: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto (2009).

The first 45,000 of the 50,000 training images are for training, the last 5,000 for validation, the 10,000 test images for test; the
labels of CIFAR-100 are the 100 fine ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError
from epsilon.data.source import MissingData, Source, content_of

__all__ = ["CIFAR10", "CIFAR100", "Cifar", "source"]

SIDE = 32


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 and CIFAR-100 apart, and the sizes of their files.

    Parameters
    ----------
    name, title : str
    classes : int
    labels : str
        How the name of a sheet format's label file goes on after ``train_`` or ``test_``.
    training, validation, test : int
        Images of each split.
    grid : (rows, columns) of the images of one sheet
    """

    name: str
    title: str
    classes: int
    labels: str
    training: int = 45_000
    validation: int = 5_000
    test: int = 10_000
    grid: tuple[int, int] = (25, 40)

    def place(self, split: str) -> tuple[str, int, int, int]:
        """Return the original part that holds a split, where the split starts and ends in it, and how many images the part has."""
        if split == "test":
            return "test", 0, self.test, self.test
        whole = self.training + self.validation
        return ("train", 0, self.training, whole) if split == "train" else ("train", self.training, whole, whole)


CIFAR10 = Cifar("cifar10", "CIFAR-10", 10, "labels.u8")
CIFAR100 = Cifar("cifar100", "CIFAR-100", 100, "fine_labels.u8")


def source(kind: Cifar, root: Path) -> Source:
    """Return where the files are.

    Raises
    ------
    MissingData
        When none of the formats is in the folder.
    """
    for folder in (root, root / kind.name):
        if any((folder / f"{part}_{kind.labels}").is_file() for part in ("train", "test")):
            return Source("WebP sheets", folder, partial(_read_sheets, kind, folder))
    raise MissingData(f"There is no {kind.title} in {root} or its subfolder {kind.name}: train_{kind.labels} was looked for")


def _read_sheets(kind: Cifar, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    part, start, stop, whole = kind.place(split)
    labels = _labels(kind, folder / f"{part}_{kind.labels}", whole)[start:stop]
    rows, columns = kind.grid
    each = rows * columns
    images = np.empty((stop - start, 3, SIDE, SIDE), np.uint8)
    for number in range(start // each, -(-stop // each)):
        sheet = _sheet(folder / f"{part}_{number:02d}.webp", rows, columns)
        first = number * each
        kept = sheet[max(start - first, 0) : stop - first]
        at = max(first - start, 0)
        images[at : at + len(kept)] = kept
    return images, labels


def _labels(kind: Cifar, path: Path, count: int) -> np.ndarray:
    labels = np.frombuffer(content_of(path), np.uint8)
    if len(labels) != count:
        raise DataError(f"{path} must hold {count} labels of one byte each, not {len(labels)}")
    if labels.max() >= kind.classes:
        raise DataError(f"{path} must hold labels of 0..{kind.classes - 1}, not {labels.max()}")
    return labels.astype(np.int64)


def _sheet(path: Path, rows: int, columns: int) -> np.ndarray:
    """Return the images of a sheet, row by row, uint8 (rows * columns, 3, 32, 32)."""
    import io

    from PIL import Image

    content = content_of(path)
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as opened:
            size, mode = opened.size, opened.mode
            pixels = np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no WebP picture that can be read: {error}") from None
    if size != (columns * SIDE, rows * SIDE) or mode != "RGB":
        raise DataError(
            f"{path} must be an RGB picture of {columns * SIDE}x{rows * SIDE} pixels, not {mode} of {size[0]}x{size[1]}"
        )
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, SIDE, SIDE)
