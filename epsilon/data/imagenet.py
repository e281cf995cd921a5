"""ImageNet-1k: the user's folder of validation pictures, and a sample with one picture per class.

Ref: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 115 (2015): 1,000 classes, 50,000 validation
pictures.

A class is its WordNet id; its number is its place among the 1,000 ids in ascending order. Every picture becomes RGB, its shorter
side 256 pixels (bicubic), and the middle 224x224 are kept. Pictures are decoded when they are used: the whole set would take
7.5 GB.

The labels of the challenge's test pictures are not public, so its validation pictures are divided: in ascending order of file name
the last tenth (5,000) is ``validation`` and the rest (45,000) is ``test``. That order is the challenge's own and mixes the classes,
so the first N are a fair sample. Equal names in several folders go by class.

The sample has only ``test``. One picture per class, shrunk and compressed with loss: enough to compare two versions of a network
on, but no benchmark of accuracy. Its pictures are in the order of their classes.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError, Pictures
from epsilon.data.source import MissingData, Source, content_of

__all__ = ["CLASSES", "SIDE", "prepared", "sample", "source"]

CLASSES = 1000
SIDE = 224
SHORTER_SIDE = 256
WNID = re.compile(r"n\d{8}")
ENDINGS = (".jpeg", ".jpg", ".png")
#: One picture of so many is for validation.
VALIDATION = 10
#: Where the class folders may lie in the folder that a user names.
FOLDERS = (".", "val", "imagenet", "imagenet/val")
SAMPLE = "imagenet1k_224.zip"
SAMPLE_NAME = re.compile(r"(\d{4})_n\d{8}_.*\.webp")


def source(root: Path | None) -> Source:
    """Return where the validation pictures are.

    Raises
    ------
    MissingData
        Without a folder, for the pictures cannot be downloaded, and when it has no class folders.
    """
    if root is None:
        raise MissingData("ImageNet cannot be downloaded freely: give the folder of its val/WNID/*.JPEG by --data or EPSILON_DATA")
    for folder in (root / place for place in FOLDERS):
        classes = _class_folders(folder)
        if classes:
            return Source("JPEG folders", folder, partial(_read_folders, folder, classes), partial(_class_checksum, classes))
    raise MissingData(f"There is no ImageNet in {root}: val/WNID/*.JPEG, with the 1,000 WNIDs such as n01440764, were looked for")


def _class_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if WNID.fullmatch(entry.name) and entry.is_dir())
    except OSError:
        return []


def _class_checksum(classes: list[str], *_: object) -> dict[str, str]:
    return {"classes": hashlib.md5("\n".join(classes).encode()).hexdigest()}


def _read_folders(folder: Path, classes: list[str], split: str) -> tuple[Pictures, np.ndarray]:
    if len(classes) != CLASSES:
        raise DataError(
            f"{folder} must have the folders of all {CLASSES} classes, not {len(classes)}: they decide each class's number"
        )
    found = []
    for number, wnid in enumerate(classes):
        names = [name for name in os.listdir(folder / wnid) if name.lower().endswith(ENDINGS)]
        if not names:
            raise DataError(f"{folder / wnid} must hold pictures of its class, and has none that end in {', '.join(ENDINGS)}")
        found += [(name, number) for name in names]
    found.sort()
    start = len(found) - len(found) // VALIDATION
    part = found[start:] if split == "validation" else found[:start]
    paths = [folder / classes[number] / name for name, number in part]
    return Pictures(_decoded_file, paths, (3, SIDE, SIDE)), np.array([number for _, number in part], np.int64)


def _decoded_file(path: Path) -> np.ndarray:
    return _decoded(content_of(path), path, prepared)


def prepared(picture) -> object:
    """Return a Pillow picture as RGB, its shorter side resized to 256 (bicubic), the middle 224x224 cut out."""
    from PIL import Image

    picture = picture.convert("RGB")
    shorter = min(picture.size)
    width, height = (SHORTER_SIDE * side // shorter for side in picture.size)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))


def _decoded(content: bytes, where: object, prepare: Callable) -> np.ndarray:
    """Return a picture as uint8 (3, 224, 224)."""
    from PIL import Image  # needed only here

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG", "WEBP"]) as opened:
            pixels = np.asarray(prepare(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is damaged or of another format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{where} is no picture that can be read: {reason}") from None
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{where} must be a picture of {SIDE}x{SIDE} pixels, not {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels.transpose(2, 0, 1)


def sample(root: Path | None) -> Source:
    """Return where the sample is.

    Raises
    ------
    MissingData
        Without a folder, for the sample has no public address, and when the folder has no such file.
    """
    if root is None:
        raise MissingData(f"The ImageNet sample cannot be downloaded: give the folder of {SAMPLE} by --data or EPSILON_DATA")
    for path in (root / SAMPLE, root / "imagenet_sample" / SAMPLE):
        if path.is_file():
            return Source("WebP pictures, zipped", path, partial(_read_sample, path), partial(_sample_checksum, path))
    raise MissingData(f"There is no ImageNet sample in {root} or its subfolder imagenet_sample: {SAMPLE} was looked for")


def _sample_checksum(path: Path, *_: object) -> dict[str, str]:
    return {"archive": hashlib.md5(content_of(path)).hexdigest()}


def _read_sample(path: Path, split: str) -> tuple[Pictures, np.ndarray]:
    archive = io.BytesIO(content_of(path))  # 11 MB, held while the pictures are
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no zip file that can be read: {error}") from None
    names = sorted(opened.namelist())
    numbers = [int(match[1]) if (match := SAMPLE_NAME.fullmatch(name)) else -1 for name in names]
    if numbers != list(range(CLASSES)):
        raise DataError(
            f"{path} must hold {CLASSES} pictures named like 0000_n01440764_tench.webp, one per class, not {len(names)} files"
        )

    def decode(name: str) -> np.ndarray:
        try:
            content = opened.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{name} of {path} cannot be read: {error}") from None
        return _decoded(content, f"{name} of {path}", lambda picture: picture.convert("RGB"))

    return Pictures(decode, names, (3, SIDE, SIDE)), np.arange(CLASSES)
