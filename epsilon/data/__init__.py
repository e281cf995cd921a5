"""Labelled images in fixed splits: handwritten digits, MNIST, CIFAR-10 and CIFAR-100.

Splits never depend on a seed; each set's module says what they are.
"""

from __future__ import annotations

import os

from epsilon.data import cifar, digits, mnist
from epsilon.data.dataset import SPLITS, DataError, Dataset
from epsilon.data.idx import read_idx
from epsilon.data.mnist import MIRRORS as MNIST_MIRRORS
from epsilon.data.source import given_folder

__all__ = ["MNIST_MIRRORS", "SPLITS", "DataError", "Dataset", "load", "names", "read_idx"]


def names() -> tuple[str, ...]:
    """Return the names that ``load`` knows."""
    return ("digits", "mnist", "cifar10", "cifar100")


def load(name: str, split: str, data: str | os.PathLike | None = None) -> Dataset:
    """Return one split of a data set.

    Parameters
    ----------
    name : str
        One of ``names()``.
    split : str
        ``train``, ``validation`` or ``test``.
    data : path, optional
        Folder with the set's files, or whose subfolder of the set's name has them; without it the environment's EPSILON_DATA
        counts; without both the files are downloaded once into the user's cache and checked.

    Raises
    ------
    DataError
        For an unknown name or split, and for files that are missing or damaged.
    """
    if split not in SPLITS:
        raise DataError(f"The split must be one of {', '.join(SPLITS)}, not {split!r}")
    if name not in names():
        raise DataError(f"The data set must be one of {', '.join(names())}, not {name!r}")
    if name == "digits":
        images, labels = digits.read(split)
        return Dataset(name, split, images, labels)
    root = given_folder(data)
    if name == "mnist":
        images, labels = mnist.source(root).read(split)
        return Dataset(name, split, images, labels)
    kind = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]
    if root is None:
        raise DataError(f"Where is {kind.title}? Give its folder by --data or EPSILON_DATA")
    images, labels = cifar.source(kind, root).read(split)
    return Dataset(name, split, images, labels, kind.classes)
