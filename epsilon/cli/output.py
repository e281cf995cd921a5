"""What the commands print: tables on stdout, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["accuracy_table", "console", "new_table", "progress_bar", "write_json"]

#: Columns of a table that does not go to a terminal.
FILE_WIDTH = 140


def console() -> Console:
    """Return the console for results; wide enough for every table where it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=FILE_WIDTH)


def new_table(title: str, *columns: str, left: int = 1) -> Table:
    """Return a table whose first ``left`` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=index == 0)
    return table


def accuracy_table(title: str, by_multiplier: dict[str, dict], gamma: dict[str, float]) -> Table:
    """Return a table of the accuracies and thresholds that a network file states, a row per multiplier."""
    table = new_table(title, "multiplier", "accuracy", "each exit", "gamma")
    for key, found in by_multiplier.items():
        each = " ".join(f"{100 * accuracy:.1f}" for accuracy in found["exits"])
        table.add_row(key, f"{100 * found['multi_exit']:.2f} %", each, f"{gamma[key]:.2f}")
    return table


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable]:
    """Show a bar on stderr; without a terminal, a line per tenth.

    Yields ``update(done, what=None, total=None, note="")``.
    """
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield _Lines(err, what, total).update
        return
    note = TextColumn("{task.fields[note]}", style="dim")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note)
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=total, note="")

        def update(done: int, text: str | None = None, total: int | None = None, note: str = "") -> None:
            progress.update(task, completed=done, description=text, total=total, note=note)

        yield update


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, err: Console, what: str, total: int | None) -> None:
        self._err, self._what, self._total, self._shown = err, what, total, -1
        self._print(what)

    def update(self, done: int, text: str | None = None, total: int | None = None, note: str = "") -> None:
        if text is not None and text != self._what:
            self._what, self._total, self._shown = text, total, -1
            if total is None:
                self._print(text)
        self._total = total if total is not None else self._total
        if not self._total:
            return
        tenth = 10 * done // self._total
        if tenth > self._shown:
            self._shown = tenth
            self._print(f"{self._what}: {done} of {self._total} {note}".rstrip())

    def _print(self, line: str) -> None:
        self._err.print(line, soft_wrap=True, markup=False)


def write_json(path: Path, values: dict) -> None:
    """Write a result as JSON, all or nothing."""
    from epsilon.files import write_atomically

    write_atomically(path, json.dumps(values, indent=2) + "\n")
