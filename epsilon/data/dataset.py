"""What a split of a data set is, and the error for data that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["SPLITS", "DataError", "Dataset", "Pictures"]

SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Images or labels that are missing, damaged or not what they should be."""


class Pictures:
    """Stand for the array uint8 (count, C, H, W) of pictures that are decoded each time they are indexed, and never kept.

    Indexing by a number, a slice or a sequence of numbers gives the numpy array that the real one would give.

    Parameters
    ----------
    decode : callable
        From an item to its picture, uint8 (C, H, W).
    items : sequence
        What ``decode`` takes, such as paths, one per picture.
    shape : (C, H, W)
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, decode: Callable[[object], np.ndarray], items: Sequence, shape: tuple[int, int, int]) -> None:
        self._decode = decode
        self._items = items
        self._shape = shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._items), *self._shape)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int | slice | Sequence[int]) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._decode(self._items[index])
        numbers = np.arange(len(self))[index]
        pictures = np.empty((len(numbers), *self._shape), np.uint8)
        for place, number in enumerate(numbers):
            pictures[place] = self._decode(self._items[number])
        return pictures


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Parameters
    ----------
    name, split : str
    images : uint8 (count, C, H, W)
        An array, or ``Pictures`` where the whole split is too large to hold.
    labels : int64 (count,)
    classes : int
        How many classes the labels 0..classes-1 tell apart.
    """

    name: str
    split: str
    images: np.ndarray | Pictures
    labels: np.ndarray
    classes: int = 10

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Dataset:
        """Return the first ``count`` images, as an array: of ``Pictures`` only these are decoded.

        Raises
        ------
        DataError
            When there are not that many, or the count is below 1.
        """
        if not 1 <= count <= len(self):
            raise DataError(
                f"The {self.split} split of {self.name} has {len(self)} images: the number must lie in 1..{len(self)}, not {count}"
            )
        return self._part(slice(count))

    def batches(self, size: int) -> Iterator[Dataset]:
        """Yield the images in order, ``size`` at a time as arrays; the last batch may be smaller.

        Raises
        ------
        DataError
            When the size is below 1.
        """
        if size < 1:
            raise DataError(f"The size of a batch must be at least 1, not {size}")
        for start in range(0, len(self), size):
            yield self._part(slice(start, start + size))

    def _part(self, part: slice) -> Dataset:
        return replace(self, images=self.images[part], labels=self.labels[part])
