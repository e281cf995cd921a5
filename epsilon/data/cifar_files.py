"""The files of CIFAR: the Python version's pickles, the binary version's records, and lossless WebP sheets.

Ref: https://www.cs.toronto.edu/~kriz/cifar.html.

A record, and a row of a pickle's ``data``, is 1,024 red, 1,024 green and 1,024 blue bytes, each plane row by row. A sheet is one
picture that tiles the images, row by row.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError
from epsilon.data.source import content_of
from epsilon.data.unpickle import unpickled

__all__ = ["SIDE", "Archive", "Batch", "Folder", "binary_batch", "label_file", "python_batch", "read_sheet"]

SIDE = 32
PIXELS = 3 * SIDE * SIDE

#: Images, uint8 (count, 3, 32, 32), and their labels (count,).
Batch = tuple[np.ndarray, np.ndarray]


class Folder:
    """Files of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str) -> str:
        """Return what errors call a file."""
        return str(self.path / name)

    def contents(self, names: list[str]) -> Iterator[bytes]:
        """Yield the bytes of each file; raises ``DataError`` for one that is missing or cannot be read."""
        for name in names:
            yield content_of(self.path / name)


class Archive:
    """Files of one folder of a .tar.gz, read from there without unpacking it."""

    def __init__(self, path: Path, inner: str) -> None:
        self.path = path
        self.inner = inner

    def where(self, name: str) -> str:
        """Return what errors call a file."""
        return f"{self.inner}/{name} of {self.path}"

    def contents(self, names: list[str]) -> Iterator[bytes]:
        """Yield the bytes of each file; raises ``DataError`` for one that is missing or cannot be read."""
        wanted = {f"{self.inner}/{name}": name for name in names}
        found: dict[str, bytes] = {}
        try:
            # A gzip stream goes forwards only, and its files are in no order: one pass for all.
            with tarfile.open(self.path, "r|gz") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and name in wanted:
                        found[wanted[name]] = archive.extractfile(member).read()
                        if len(found) == len(wanted):
                            break
        except FileNotFoundError:
            raise DataError(f"There is no file {self.path}") from None
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} cannot be read: {error}") from None
        for name in names:
            if name not in found:
                raise DataError(f"There is no file {self.where(name)}")
            yield found.pop(name)


def python_batch(content: bytes, where: str, count: int, *, key: bytes, classes: int) -> Batch:
    """Return the images and labels of a file of the Python version.

    Raises
    ------
    DataError
        When it is damaged or does not hold ``count`` images and, under ``key``, as many labels of 0..classes-1.
    """
    batch = unpickled(content, where)
    images, labels = batch.get(b"data"), batch.get(key)
    if not isinstance(images, np.ndarray) or images.shape != (count, PIXELS):
        found = f"one of {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{where} must hold an array 'data' of {(count, PIXELS)} bytes, not {found}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where} must hold a list of whole numbers {key.decode()!r}")
    return _batch(images, np.array(labels), where, count, classes)


def binary_batch(content: bytes, where: str, count: int, *, label_bytes: int, classes: int) -> Batch:
    """Return the images and labels of a file of the binary version, whose records begin with ``label_bytes`` labels.

    Raises
    ------
    DataError
        When it does not hold ``count`` records, or a last label is not in 0..classes-1.
    """
    each = label_bytes + PIXELS
    if len(content) != count * each:
        raise DataError(f"{where} must hold {count} records of {each} bytes, {count * each} in all, not {len(content)}")
    records = np.frombuffer(content, np.uint8).reshape(count, each)
    return _batch(records[:, label_bytes:], records[:, label_bytes - 1], where, count, classes)


def label_file(path: Path, count: int, classes: int) -> np.ndarray:
    """Return the labels, int64 (count,), of a file with one byte each.

    Raises
    ------
    DataError
        When it is missing or does not hold ``count`` labels of 0..classes-1.
    """
    labels = np.frombuffer(content_of(path), np.uint8)
    _require_labels(labels, path, count, classes)
    return labels.astype(np.int64)


def read_sheet(path: Path, rows: int, columns: int) -> np.ndarray:
    """Return the images of a sheet, uint8 (rows * columns, 3, 32, 32).

    Raises
    ------
    DataError
        When it is missing, damaged, or of another size.
    """
    from PIL import Image  # needed only here

    content = content_of(path)
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as opened:
            size, mode = opened.size, opened.mode
            pixels = np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is damaged or of another format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{path} is no WebP picture that can be read: {reason}") from None
    width, height = columns * SIDE, rows * SIDE
    if size != (width, height) or mode != "RGB":
        raise DataError(f"{path} must be an RGB picture of {width}x{height} pixels, not {mode} of {size[0]}x{size[1]}")
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, SIDE, SIDE)


def _batch(pixels: np.ndarray, labels: np.ndarray, where: str, count: int, classes: int) -> Batch:
    _require_labels(labels, where, count, classes)
    return pixels.reshape(count, 3, SIDE, SIDE), labels.astype(np.int64)


def _require_labels(labels: np.ndarray, where: object, count: int, classes: int) -> None:
    if len(labels) != count:
        raise DataError(f"{where} must hold {count} labels, not {len(labels)}")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(f"{where} must hold labels of 0..{classes - 1}, not {wrong[0]}")
