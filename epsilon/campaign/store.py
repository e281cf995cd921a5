"""The results of campaigns in one SQLite file, which stays whole and readable whatever happens to the program that writes it.

One transaction per unit of work, in SQLite's rollback journal: killed at any moment, the file holds every finished unit and nothing
of the others. One process at a time writes: it keeps ``.NAME.lock`` beside the file locked, which the operating system ends
when the process ends, however it does. Readers need no lock. Both rest on the locks of the file system: on a network folder without
working locks (some NFS mounts) write to a local disk and copy the file afterwards.

A file that was begun before a column was thought of (``Column.later``) is a file like any other: its rows have NULL there. Reading
leaves it as it is; the next campaign on it adds the column.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock, Timeout

from epsilon.campaign.schema import COLUMNS

if TYPE_CHECKING:
    import pandas

__all__ = ["FORMAT", "VERSION", "ResultStore", "StoreError", "metadata", "read"]

FORMAT, VERSION = "epsilon-campaign", 1
#: Seconds that a writer waits for a reader, and a reader for a writer.
PATIENCE_S = 30.0
#: In which order ``read`` gives rows, so that it does not depend on which worker was first.
ORDER = (
    "dataset", "network", "multiplier", "site", "point", "polarity", "bits", "bit", "seed", "rate", "technique", "gamma", "alpha",
    "images", "key",
)  # fmt: skip
#: ``plan`` holds the keys that the last campaign asked for; ``timing`` the wall-clock, apart from rows that must be repeatable.
TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"CREATE TABLE runs ({', '.join(f'{name} {column.type}' for name, column in COLUMNS.items())}, PRIMARY KEY (key))",
    "CREATE TABLE plan (key TEXT PRIMARY KEY)",
    "CREATE TABLE timing (first_key TEXT PRIMARY KEY, rows INTEGER, seconds REAL, worker TEXT)",
)


class StoreError(ValueError):
    """A file of results that cannot be read or written."""


class ResultStore:
    """A file of results, open for writing; the only one that writes it while it is open.

    Parameters
    ----------
    path : path
        Made where there is none.

    Raises
    ------
    StoreError
        When another process writes the file, when it is one of something else or of another version, and when it or its folder
        cannot be written.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise StoreError(f"There is no folder {self.path.parent} for the results {self.path.name}")
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a folder, and not a file of results")
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"Another campaign is writing {self.path}: wait until it is done, or choose another file (reading is possible now)"
            ) from None
        except OSError as error:
            raise StoreError(f"The folder {self.path.parent} cannot be written: {error.strerror or error}") from None
        try:
            with _sentences(self.path):
                self._file = _connect(self.path, "rwc")
        except BaseException:
            self._lock.release()
            raise
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        with _sentences(self.path):
            self._file.execute("PRAGMA synchronous = FULL")
            if _is_empty(self._file):
                with self._transaction():
                    for table in TABLES:
                        self._file.execute(table)
                    described = [("format", json.dumps(FORMAT)), ("version", json.dumps(VERSION))]
                    self._file.executemany("INSERT INTO meta VALUES (?, ?)", described)
            missing = _require_format(self._file, self.path)
            if missing:
                with self._transaction():
                    for name in missing:
                        self._file.execute(f"ALTER TABLE runs ADD COLUMN {name} {COLUMNS[name].type}")

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self) -> set[str]:
        """Return the keys of the rows that are there."""
        with _sentences(self.path):
            return {key for (key,) in self._file.execute("SELECT key FROM runs")}

    def begin_campaign(self, campaign: dict, keys: Iterable[str]) -> None:
        """Note which campaign, plain JSON, the file serves from now on, and the keys of all its rows."""
        with _sentences(self.path), self._transaction():
            described = ("campaign", json.dumps(campaign, sort_keys=True))
            self._file.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", described)
            self._file.execute("DELETE FROM plan")
            self._file.executemany("INSERT OR IGNORE INTO plan VALUES (?)", ((key,) for key in keys))

    def add(self, rows: Sequence[dict], *, seconds: float | None = None, worker: str | None = None) -> None:
        """Add the rows of a unit, all or none of them.

        Parameters
        ----------
        rows : sequence of dict
            Each with all of ``COLUMNS``.
        seconds : float, optional
            Wall-clock that they took together.
        worker : str, optional
            Who computed them.

        Raises
        ------
        StoreError
            When they cannot be written; what was there before stays.
        ValueError
            For a row with other columns.
        """
        for row in rows:
            if row.keys() != COLUMNS.keys():
                differ = ", ".join(sorted(row.keys() ^ COLUMNS.keys()))
                raise ValueError(f"A row has exactly the columns of the schema; these differ: {differ}")
        # By name: columns that were added to a file are its last ones.
        names, marks = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
        with _sentences(self.path), self._transaction():
            self._file.executemany(
                f"INSERT INTO runs ({names}) VALUES ({marks})", ([row[name] for name in COLUMNS] for row in rows)
            )
            if rows:
                timing = (rows[0]["key"], len(rows), seconds, worker)
                self._file.execute("INSERT OR REPLACE INTO timing VALUES (?, ?, ?, ?)", timing)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise


def read(path: str | os.PathLike, *, current: bool = False) -> pandas.DataFrame:
    """Return the rows of a file of results, in an order that does not depend on how they were computed.

    Parameters
    ----------
    path : path
        May be written by a campaign at the same time.
    current : bool
        Only the rows that the last campaign on this file asked for.

    Returns
    -------
    pandas.DataFrame
        One column for each of ``COLUMNS``; a value that does not apply is missing.

    Raises
    ------
    StoreError
        When there is no such file, or it is none of results.
    """
    import pandas

    only = "WHERE key IN (SELECT key FROM plan) " if current else ""
    with _reading(path) as (file, missing):
        chosen = ", ".join("NULL" if name in missing else name for name in COLUMNS)
        rows = file.execute(f"SELECT {chosen} FROM runs {only}ORDER BY {', '.join(ORDER)}").fetchall()
    values = {}
    for number, (name, column) in enumerate(COLUMNS.items()):
        entries = [row[number] for row in rows]
        if column.type == "INTEGER":
            # Seeds pass 2**53, so a column with missing values must not go through float64.
            values[name] = pandas.array(entries, dtype="Int64" if None in entries else "int64")
        elif column.type == "REAL":
            values[name] = pandas.array(entries, dtype="float64")
        else:
            values[name] = pandas.Series(entries, dtype=object)
    return pandas.DataFrame(values)


def metadata(path: str | os.PathLike) -> dict:
    """Return what a file of results says of itself: ``format``, ``version`` and the last ``campaign``, plain JSON."""
    with _reading(path) as (file, _):
        return {name: json.loads(value) for name, value in file.execute("SELECT name, value FROM meta")}


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[tuple[sqlite3.Connection, list[str]]]:
    """Give a file of results for reading, and the columns that it does not have yet."""
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"There is no file of results {path}")
    with _sentences(path), closing(_connect(path, "rw")) as file:  # rw: SQLite may have to undo what a killed writer left
        if _is_empty(file):
            raise StoreError(f"{path} is no file of results of a campaign")
        yield file, _require_format(file, path)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, timeout=PATIENCE_S, isolation_level=None)


def _is_empty(file: sqlite3.Connection) -> bool:
    return file.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)


def _require_format(file: sqlite3.Connection, path: Path) -> list[str]:
    """Return the columns that were thought of after the file was begun; refuse what is no file of results of this version."""
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = {}
    if {"meta", "runs", "plan", "timing"} <= tables and _columns(file, "meta") == ["name", "value"]:
        found = dict(file.execute("SELECT name, value FROM meta"))
    if found.get("format") != json.dumps(FORMAT):
        raise StoreError(f"{path} is no file of results of a campaign")
    there = set(_columns(file, "runs"))
    missing = [name for name in COLUMNS if name not in there]
    if found.get("version") != json.dumps(VERSION) or not there <= COLUMNS.keys() or not all(COLUMNS[n].later for n in missing):
        raise StoreError(f"{path} was written by another version of this program: choose another file")
    return missing


def _columns(file: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in file.execute(f"PRAGMA table_info({table})")]


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into sentences."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_sentence(path, error)) from None


def _sentence(path: Path, error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    kept = "what was finished before is kept, and the same command goes on from there"
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"{path} cannot be written any further, the disk is probably full ({error}): {kept}"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"{path} cannot be written: the file or its folder is read-only ({error})"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} is in use by another program for more than {PATIENCE_S:g} s: {kept}"
    if name.startswith("SQLITE_NOTADB"):
        return f"{path} is no file of results of a campaign"
    if name.startswith("SQLITE_CORRUPT"):
        return f"{path} is damaged ({error})"
    return f"{path} cannot be used as a file of results: {error}"
