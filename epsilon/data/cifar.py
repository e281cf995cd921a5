"""CIFAR-10 and CIFAR-100: which formats are looked for, where, and the splits.

Ref: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto (2009).
Ref: https://www.cs.toronto.edu/~kriz/cifar.html: the Python and the binary version.

The first 45,000 of the 50,000 training images are for training, the last 5,000 for validation, the 10,000 test images for test; the
labels of CIFAR-100 are the 100 fine ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from epsilon.data import download
from epsilon.data.cifar_files import SIDE, Archive, Batch, Folder, binary_batch, label_file, python_batch, read_sheet
from epsilon.data.source import MissingData, Source

__all__ = ["CIFAR10", "CIFAR100", "Cifar", "source"]

ADDRESS = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 and CIFAR-100 apart, and the sizes of their files.

    Parameters
    ----------
    name, title : str
    classes : int
    label_bytes : int
        How many labels a record of the binary version begins with; the last one counts.
    label_key : bytes
        What the Python version calls the labels.
    label_file : str
        How the name of a label file goes on after ``train_`` or ``test_`` beside the sheets.
    python, binary : str
        The folder of each version inside its archive.
    archives : (Python version, binary version)
        File names.
    md5 : str
        Of the first of these archives.
    files : {"train": names, "test": names}
        Files of each original part in the Python version; the binary version adds ``.bin``.
    training, validation, test : int
        Images of each split.
    grid : (rows, columns) of the images of one sheet
    """

    name: str
    title: str
    classes: int
    label_bytes: int
    label_key: bytes
    label_file: str
    python: str
    binary: str
    archives: tuple[str, str]
    md5: str
    files: dict[str, tuple[str, ...]]
    training: int = 45_000
    validation: int = 5_000
    test: int = 10_000
    grid: tuple[int, int] = (25, 40)

    def place(self, split: str) -> tuple[str, int, int]:
        """Return the original part that holds a split, and where the split starts and ends in it."""
        if split == "test":
            return "test", 0, self.test
        return ("train", 0, self.training) if split == "train" else ("train", self.training, self.whole("train"))

    def whole(self, part: str) -> int:
        """Return how many images an original part has."""
        return self.test if part == "test" else self.training + self.validation


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    label_bytes=1,
    label_key=b"labels",
    label_file="labels.u8",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    md5="c58f30108f718f92721af3b95e74349a",
    files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    label_bytes=2,
    label_key=b"fine_labels",
    label_file="fine_labels.u8",
    python="cifar-100-python",
    binary="cifar-100-binary",
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    files={"train": ("train",), "test": ("test",)},
)


def source(kind: Cifar, root: Path | None) -> Source:
    """Return where the files are; without a folder the archive is downloaded when it is read.

    Folders come before archives, which are decompressed again for every split.

    Raises
    ------
    MissingData
        When none of the formats is in the folder.
    """
    if root is None:
        folder = download.cache(kind.name)
        return Source("Python version, packed", folder, partial(_read_downloaded, kind, folder))
    folders = (root, root / kind.name)
    for folder in folders:
        if any((folder / f"{part}_{kind.label_file}").is_file() for part in kind.files):
            return Source("WebP sheets", folder, partial(_read_sheets, kind, folder))
    python = partial(python_batch, key=kind.label_key, classes=kind.classes)
    binary = partial(binary_batch, label_bytes=kind.label_bytes, classes=kind.classes)
    versions = (("Python version", kind.python, "", python), ("binary version", kind.binary, ".bin", binary))
    for title, inner, ending, parse in versions:
        for folder in (place / name for place in folders for name in (inner, ".")):
            if any((folder / f"{name}{ending}").is_file() for names in kind.files.values() for name in names):
                return Source(title, folder, partial(_read_batches, kind, Folder(folder), ending, parse))
    for archive, (title, inner, ending, parse) in zip(kind.archives, versions, strict=True):
        for path in (folder / archive for folder in folders):
            if path.is_file():
                return Source(f"{title}, packed", path, partial(_read_batches, kind, Archive(path, inner), ending, parse))
    looked_for = f"train_{kind.label_file} with train_00.webp, {kind.python}, {kind.binary}, {' and '.join(kind.archives)}"
    raise MissingData(f"There is no {kind.title} in {root} or its subfolder {kind.name}: {looked_for} were looked for")


def _read_downloaded(kind: Cifar, folder: Path, split: str) -> Batch:
    path = download.retrieve(kind.title, [f"{ADDRESS}{kind.archives[0]}"], kind.md5, folder)
    parse = partial(python_batch, key=kind.label_key, classes=kind.classes)
    return _read_batches(kind, Archive(path, kind.python), "", parse, split)


def _read_sheets(kind: Cifar, folder: Path, split: str) -> Batch:
    part, start, stop = kind.place(split)
    rows, columns = kind.grid
    each = rows * columns
    labels = label_file(folder / f"{part}_{kind.label_file}", kind.whole(part), kind.classes)

    def read(numbers: range) -> Iterator[Batch]:
        for number in numbers:
            images = read_sheet(folder / f"{part}_{number:02d}.webp", rows, columns)
            yield images, labels[number * each : (number + 1) * each]

    return _gathered(read, each, start, stop)


def _read_batches(kind: Cifar, files: Folder | Archive, ending: str, parse: Callable[..., Batch], split: str) -> Batch:
    part, start, stop = kind.place(split)
    names = [f"{name}{ending}" for name in kind.files[part]]
    each = kind.whole(part) // len(names)

    def read(numbers: range) -> Iterator[Batch]:
        wanted = [names[number] for number in numbers]
        for name, content in zip(wanted, files.contents(wanted), strict=True):
            yield parse(content, files.where(name), each)

    return _gathered(read, each, start, stop)


def _gathered(read: Callable[[range], Iterator[Batch]], each: int, start: int, stop: int) -> Batch:
    """Return images ``start`` to ``stop`` of a part whose files hold ``each`` images, reading only the files that they lie in."""
    images = np.empty((stop - start, 3, SIDE, SIDE), np.uint8)
    labels = np.empty(stop - start, np.int64)
    numbers = range(start // each, -(-stop // each))
    for number, (file_images, file_labels) in zip(numbers, read(numbers), strict=True):
        begin, end = max(start, number * each), min(stop, (number + 1) * each)
        there, here = slice(begin - number * each, end - number * each), slice(begin - start, end - start)
        images[here], labels[here] = file_images[there], file_labels[there]
    return images, labels
