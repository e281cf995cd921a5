"""What a split of a data set is, and the error for data that are not what they should be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["SPLITS", "DataError", "Dataset"]

SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Images or labels that are missing, damaged or not what they should be."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Parameters
    ----------
    name, split : str
    images : uint8 (count, C, H, W)
    labels : int64 (count,)
    classes : int
        How many classes the labels 0..classes-1 tell apart.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    classes: int = 10

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Dataset:
        """Return the first ``count`` images.

        Raises
        ------
        DataError
            When there are not that many, or the count is below 1.
        """
        if not 1 <= count <= len(self):
            raise DataError(
                f"The {self.split} split of {self.name} has {len(self)} images: the number must lie in 1..{len(self)}, not {count}"
            )
        return replace(self, images=self.images[:count], labels=self.labels[:count])
