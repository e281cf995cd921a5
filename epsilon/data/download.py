"""Files from the network, once, into the user's cache, checked by their MD5."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from epsilon.data.dataset import DataError
from epsilon.data.source import ENVIRONMENT
from epsilon.sentences import first_line

__all__ = ["cache", "retrieve"]


def cache(name: str = "") -> Path:
    """Return the folder of a data set in the user's cache, or the folder of all, whether or not it exists."""
    import pooch  # needed only where no folder is given

    return Path(pooch.os_cache("epsilon")) / name


def retrieve(title: str, addresses: Iterable[str], md5: str, folder: Path) -> Path:
    """Return a file of a folder, downloaded from the first address that has it if it is not there yet.

    Raises
    ------
    DataError
        When no address yields the file with this MD5.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    reason: Exception | None = None
    name = ""
    for address in addresses:
        name = address.rpartition("/")[2]
        try:
            return Path(pooch.retrieve(address, f"md5:{md5}", fname=name, path=folder))
        except Exception as error:  # whatever an address does wrong, the next one is tried
            reason = error
    sentence = first_line(reason)
    raise DataError(f"{title}'s {name} could not be downloaded ({sentence}): give its folder by --data or {ENVIRONMENT}")
