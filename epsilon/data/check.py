"""Which data sets are there, in which format, and whether they are sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from epsilon.data import download
from epsilon.data.catalogue import CATALOGUE, entry_of, verified
from epsilon.data.dataset import DataError, Dataset, Pictures
from epsilon.data.source import MissingData, Source, given_folder

__all__ = ["Finding", "check", "get"]

#: So many pictures are decoded of a split that is not held in memory.
DECODED = 100


@dataclass(frozen=True)
class Finding:
    """What was found of one data set.

    Parameters
    ----------
    name, title : str
    format, place : str
        Empty when nothing was found.
    images : {split: int}
        How many each sound split has.
    checksums : tuple of str
        What of every split has a known MD5 and has it.
    missing : str
        What was looked for, when nothing was found.
    problem : str
        What is wrong, when something is.
    """

    name: str
    title: str
    format: str = ""
    place: str = ""
    images: dict[str, int] = field(default_factory=dict)
    checksums: tuple[str, ...] = ()
    missing: str = ""
    problem: str = ""

    def describe(self) -> dict:
        """Return the finding as values for JSON."""
        return asdict(self)


def check(data: str | os.PathLike | None = None) -> Iterator[Finding]:
    """Read every split of every data set and compare it with what was published, one set after the other; nothing is downloaded.

    Of ImageNet's pictures only the first ``DECODED`` of each split are decoded.

    Parameters
    ----------
    data : path, optional
        As for ``epsilon.data.load``; without a folder, what was downloaded is looked at.

    Raises
    ------
    DataError
        When there is no such folder.
    """
    root = given_folder(data)
    if root is None:
        root = download.cache()
    elif not root.is_dir():
        raise DataError(f"There is no folder {root}")
    for name, entry in CATALOGUE.items():
        try:
            source = entry.source(root)
        except MissingData as error:
            yield Finding(name, entry.title, missing=str(error))
        else:
            yield _checked(name, source)


def get(name: str) -> Finding:
    """Download a data set into the user's cache, unless it is there, and check it.

    Raises
    ------
    DataError
        For an unknown name, a set that cannot be downloaded, and files that are not the published ones.
    """
    finding = _checked(name, entry_of(name).source(None))
    if finding.problem:
        raise DataError(finding.problem)
    return finding


def _checked(name: str, source: Source) -> Finding:
    entry = CATALOGUE[name]
    images: dict[str, int] = {}
    checksums: tuple[str, ...] = ()
    problem = ""
    try:
        for split in entry.splits:
            dataset = Dataset(name, split, *source.read(split), entry.classes)
            checksums = tuple(verified(dataset, source))
            if isinstance(dataset.images, Pictures):
                dataset.first(min(DECODED, len(dataset)))
            images[split] = len(dataset)
    except DataError as error:
        problem = str(error)
    return Finding(name, entry.title, source.format, str(source.place), images, () if problem else checksums, problem=problem)
