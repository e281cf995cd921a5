"""Every data set by its name: where it comes from, and the MD5 of what its splits must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from epsilon.data import cifar, digits, imagenet, mnist
from epsilon.data.dataset import SPLITS, DataError, Dataset
from epsilon.data.source import Source

__all__ = ["CATALOGUE", "CHECKSUMS", "Entry", "entry_of", "verified"]


@dataclass(frozen=True)
class Entry:
    """A data set.

    Parameters
    ----------
    title : str
        Its name for people.
    classes : int
    source : callable
        From the folder that a user gave, or None, to where the set is; raises ``MissingData``.
    splits : tuple of str
        Those that it has.
    """

    title: str
    classes: int
    source: Callable[[Path | None], Source]
    splits: tuple[str, ...] = SPLITS


CATALOGUE = {
    "digits": Entry("Handwritten digits", 10, digits.source),
    "mnist": Entry("MNIST", 10, mnist.source),
    "cifar10": Entry("CIFAR-10", 10, partial(cifar.source, cifar.CIFAR10)),
    "cifar100": Entry("CIFAR-100", 100, partial(cifar.source, cifar.CIFAR100)),
    "imagenet": Entry("ImageNet-1k", 1000, imagenet.source, ("validation", "test")),
    "imagenet-sample": Entry("ImageNet sample (no accuracy benchmark)", 1000, imagenet.sample, ("test",)),
}

#: (data set, split) -> MD5 of each thing: of the images, uint8 (count, C, H, W), and labels, a byte each, whatever the format of
#: the files; where decoders may round differently, of the file that holds the pictures, or of the class names, a line each. Those
#: of MNIST and CIFAR were taken from arrays that equal the published files.
CHECKSUMS = {
    ("digits", "train"): {"images": "a1d72beb42447e8073194270e39676d4", "labels": "19b395d8ba3ff68f6c77f401179de4ce"},
    ("digits", "validation"): {"images": "c3de3a5659c940a1bc45cdfa85df7aa3", "labels": "a7fead4444c0cc2a415026d0853b07e7"},
    ("digits", "test"): {"images": "6cb0fa165066850fe255326c61c459f2", "labels": "a70d40d2aca5128ed2c3e9c253ba24bb"},
    ("mnist", "train"): {"images": "811aaf768ac94fbb9050ba37a9b5b407", "labels": "94640f17fd907dc3e383797a5b255b01"},
    ("mnist", "validation"): {"images": "0ad96bc5b3a8c3bd6e3e43ffb6079233", "labels": "b421bcab021e2301be8daa74c079e688"},
    ("mnist", "test"): {"images": "240610fa99e73bfa49df8e7fc24d3206", "labels": "073c3904dfbd3e141ff8aa01cfde6b15"},
    ("cifar10", "train"): {"images": "719bf023e4f6644172ef45bd0e37049e", "labels": "d75ba5bb9e2ea61f5c38ab17c871f036"},
    ("cifar10", "validation"): {"images": "a4ae9e5cae483dcdac6aaef0d31033ce", "labels": "c5e2e73abe9990d294080975f1c60498"},
    ("cifar10", "test"): {"images": "f1aa22116df97725db0e47461c45a82b", "labels": "251f18ce75337ae9ca5d0dbd7ea62cf4"},
    ("cifar100", "train"): {"images": "62556c2bce1105ab3dd3b4e749c37832", "labels": "8f4e39e439a8791fab7e98e71496cee8"},
    ("cifar100", "validation"): {"images": "ab07bae56e2968642345cb524ed24bb3", "labels": "19e98c2b74e4f245754dad1aaebd90bb"},
    ("cifar100", "test"): {"images": "155ad486d683899b65629b069dab09ba", "labels": "1ddeb59844e0066662ddddaec17677b9"},
    ("imagenet", "validation"): {"classes": "9d0b4dfdf4f9039970fca981f7068107"},
    ("imagenet", "test"): {"classes": "9d0b4dfdf4f9039970fca981f7068107"},
    ("imagenet-sample", "test"): {"archive": "ffd4fbb4139d95aca565b534456b1ff8"},
}


def entry_of(name: str) -> Entry:
    """Return the data set of a name; raises ``DataError`` for an unknown one."""
    if name not in CATALOGUE:
        raise DataError(f"The data set must be one of {', '.join(CATALOGUE)}, not {name!r}")
    return CATALOGUE[name]


def verified(dataset: Dataset, source: Source) -> list[str]:
    """Return what of a split has a known MD5, each of them found right.

    Raises
    ------
    DataError
        When one is wrong.
    """
    known = CHECKSUMS[dataset.name, dataset.split]
    for what, found in source.checksums(dataset.images, dataset.labels).items():
        if found != known[what]:
            title = f"The {dataset.split} split of {CATALOGUE[dataset.name].title} in {source.place}"
            raise DataError(f"{title} is not the published one: the MD5 of its {what} is {found}, not {known[what]}")
    return list(known)
