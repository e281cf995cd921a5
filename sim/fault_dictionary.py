"""The fault dictionary: every single stuck-at fault of an array, and how it showed on every image, in one SQLite file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap, Registers
from epsilon.files import write_atomically
from sim.lanes.accelerator import NetFault

__all__ = ["CSV_COLUMNS", "Coverage", "FaultDictionary", "FaultDictionaryError", "FaultSpace"]

VERSION = 1
CSV_COLUMNS = (
    "fault", "row", "col", "place", "stuck_at", "images", "changed_accumulators", "changed_logits", "changed_top1", "first_image",
    "changed_layers", "changed_records",
)  # fmt: skip
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (version INTEGER, configuration TEXT);
CREATE TABLE IF NOT EXISTS observed (
    fault INTEGER, image INTEGER, layers INTEGER, logits INTEGER, top1 INTEGER, PRIMARY KEY (fault, image)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recorded (fault INTEGER PRIMARY KEY, layers INTEGER);
"""


class FaultDictionaryError(ValueError):
    """A fault dictionary that cannot be read, or that is one of something else."""


class FaultSpace:
    """All single stuck-at faults of an array, numbered: by PE (row by row), place, polarity.

    Parameters
    ----------
    config : ArrayConfig
    nets : sequence of str
        Names of the nets of a processing element, then its places; none: the places are the eight bits of its weight register.
    """

    def __init__(self, config: ArrayConfig, nets: Iterable[str] = ()) -> None:
        self._config = config
        self._nets = bool(nets)
        self.places = tuple(nets) or tuple(f"weight[{bit}]" for bit in range(8))

    def __len__(self) -> int:
        return self._config.pes * len(self.places) * 2

    def locate(self, fault: int) -> tuple[int, int, int, int]:
        """Return row, column, index of the place, and polarity of a fault."""
        rest, stuck_at = divmod(fault, 2)
        pe, place = divmod(rest, len(self.places))
        return *divmod(pe, self._config.cols), place, stuck_at

    def fault(self, fault: int) -> FaultMap | NetFault:
        """Return a fault as ``FaultLanes`` takes it."""
        row, col, place, stuck_at = self.locate(fault)
        if self._nets:
            return NetFault(row, col, place, stuck_at)
        grid = (self._config.rows, self._config.cols)
        index = np.array([row * self._config.cols + col])
        return FaultMap(array=Registers(grid, index, np.array([place], np.uint8), np.array([stuck_at], np.uint8)))

    def group(self, fault: int) -> str:
        """Return the kind of place for coverage figures: a bit of the register, or the name of a net without its numbers."""
        place = self.places[self.locate(fault)[2]]
        if not self._nets:
            return place
        # Synthesis names with a dollar what has no name in the hardware description.
        return "unnamed logic" if "$" in place else re.split(r"[\d\[]", place)[0].rstrip("/_.")


@dataclass(frozen=True)
class Coverage:
    """How many faults of a group were detected, and by what.

    ``output`` any accumulator on any image, ``logits`` any logit of any exit, ``top1`` the class of the last exit, ``records`` a
    scan record of any layer, ``records_only`` the records while no accumulator changed on any image, ``nothing`` none of these.
    """

    group: str
    faults: int
    output: int
    logits: int
    top1: int
    records: int
    records_only: int
    nothing: int


class FaultDictionary:
    """The results of a fault simulation in one SQLite file; what it holds stays when the program is killed.

    Parameters
    ----------
    path : path
        Made where there is none.
    configuration : dict
        Everything that the results depend on, plain JSON.
    space : FaultSpace
    images : int

    Raises
    ------
    FaultDictionaryError
        When the file is none of these, or was begun with another configuration.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict, space: FaultSpace, images: int) -> None:
        self.path = Path(path)
        self.space = space
        self.images = images
        with self._readable():
            self._file = sqlite3.connect(self.path, timeout=30)
        try:
            self._begin(json.dumps(configuration, sort_keys=True))
        except BaseException:
            self.close()
            raise

    def _begin(self, configuration: str) -> None:
        with self._readable():
            self._file.executescript(_TABLES)
            begun = self._file.execute("SELECT version, configuration FROM meta").fetchone()
            if begun is None:
                with self._file:
                    self._file.execute("INSERT INTO meta VALUES (?, ?)", (VERSION, configuration))
        if begun is not None and begun != (VERSION, configuration):
            other = _difference(begun, configuration)
            raise FaultDictionaryError(f"{self.path} was begun with another {other}: choose another file")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> FaultDictionary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def observed(self) -> np.ndarray:
        """Which pairs of image and fault are done, bool (images, faults)."""
        done = np.zeros((self.images, len(self.space)), dtype=bool)
        for fault, image in self._file.execute("SELECT fault, image FROM observed"):
            done[image, fault] = True
        return done

    @property
    def recorded(self) -> np.ndarray:
        """Of which faults the scan records are known, bool (faults,)."""
        done = np.zeros(len(self.space), dtype=bool)
        for (fault,) in self._file.execute("SELECT fault FROM recorded"):
            done[fault] = True
        return done

    def add_observed(self, rows: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Add (fault, image, layers whose accumulators changed, logits changed, class changed), all or none of them."""
        with self._readable(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO observed VALUES (?, ?, ?, ?, ?)", rows)

    def add_recorded(self, rows: Iterable[tuple[int, int]]) -> None:
        """Add (fault, layers whose scan records changed), all or none of them."""
        with self._readable(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO recorded VALUES (?, ?)", rows)

    def rows(self) -> Iterator[tuple]:
        """Yield what is known of every fault, in the order of ``CSV_COLUMNS``; ``changed_layers`` is the most of any image."""
        query = """
            SELECT o.fault, COUNT(*), SUM(o.layers > 0), SUM(o.logits), SUM(o.top1),
                   MIN(CASE WHEN o.layers > 0 THEN o.image END), MAX(o.layers), r.layers
            FROM observed o LEFT JOIN recorded r ON r.fault = o.fault GROUP BY o.fault ORDER BY o.fault"""
        for fault, *values in self._file.execute(query):
            row, col, place, stuck_at = self.space.locate(fault)
            yield (fault, row, col, self.space.places[place], stuck_at, *values)

    def write_csv(self, path: str | os.PathLike) -> None:
        """Write one line per fault; the file appears whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(["" if value is None else value for value in row] for row in self.rows())
        write_atomically(path, text.getvalue())

    def coverage(self) -> list[Coverage]:
        """Return the coverage of every kind of place, and last of all faults."""
        counts: dict[str, list[int]] = {}
        for row in self.rows():
            seen = dict(zip(CSV_COLUMNS, row, strict=True))
            output, records = seen["changed_accumulators"] > 0, bool(seen["changed_records"])
            marks = (
                1, output, seen["changed_logits"] > 0, seen["changed_top1"] > 0, records, records and not output,
                not (output or records),
            )  # fmt: skip
            for group in (self.space.group(seen["fault"]), "all"):
                counts[group] = [a + int(b) for a, b in zip(counts.get(group, [0] * len(marks)), marks, strict=True)]
        total = counts.pop("all", None)
        groups = [Coverage(group, *values) for group, values in counts.items()]
        return groups if total is None else [*groups, Coverage("all", *total)]

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise FaultDictionaryError(f"The fault dictionary {self.path} cannot be used: {error}") from None


def _difference(begun: tuple[int, str], text: str) -> str:
    """Return what of a configuration is another one."""
    if begun[0] != VERSION:
        return "version of this program"
    old, new = json.loads(begun[1]), json.loads(text)
    return " and ".join(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
