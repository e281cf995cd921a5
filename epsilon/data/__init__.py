"""Labelled images in fixed splits: handwritten digits, MNIST, CIFAR-10, CIFAR-100 and ImageNet-1k.

Splits never depend on a seed; each set's module says what they are.
"""

from __future__ import annotations

import os

from epsilon.data.catalogue import CATALOGUE, entry_of, verified
from epsilon.data.dataset import SPLITS, DataError, Dataset
from epsilon.data.idx import read_idx
from epsilon.data.source import given_folder

__all__ = ["SPLITS", "DataError", "Dataset", "load", "names", "read_idx"]


def names() -> tuple[str, ...]:
    """Return the names that ``load`` knows."""
    return tuple(CATALOGUE)


def load(name: str, split: str, data: str | os.PathLike | None = None, *, verify: bool = True) -> Dataset:
    """Return one split of a data set.

    Parameters
    ----------
    name : str
        One of ``names()``.
    split : str
        ``train``, ``validation`` or ``test``; ImageNet has no ``train``, and its sample only ``test``.
    data : path, optional
        Folder with the set's files, or whose subfolder of the set's name has them; without it the environment's EPSILON_DATA
        counts; without both the files of MNIST and CIFAR are downloaded once into the user's cache.
    verify : bool
        Whether what was read must have the MD5 of the published data.

    Raises
    ------
    DataError
        For an unknown name or split, and for files that are missing, damaged or not the published ones.
    """
    if split not in SPLITS:
        raise DataError(f"The split must be one of {', '.join(SPLITS)}, not {split!r}")
    entry = entry_of(name)
    if split not in entry.splits:
        raise DataError(f"The split of {entry.title} must be {' or '.join(entry.splits)}, not {split!r}")
    source = entry.source(given_folder(data))
    dataset = Dataset(name, split, *source.read(split), entry.classes)
    if verify:
        verified(dataset, source)
    return dataset
