"""Energies of the events, each with its source, from a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from epsilon.yaml_nodes import parse_yaml

if TYPE_CHECKING:
    from epsilon.multipliers import Multiplier

__all__ = ["NAMES", "EnergyTable", "Entry"]

#: The entries of a table, and what each is the energy of. ``multiplication`` is the only one that may be left out of all files.
NAMES = {
    "multiplication": "an activation by a weight",
    "idle_multiplication": "a multiplication in a PE without a weight of the layer",
    "addition": "an addition of 32 bits",
    "register_bit": "writing a bit of a register",
    "weight_memory_bit": "reading or writing a bit of the weight memory",
    "activation_memory_bit": "reading or writing a bit of the activation memory",
    "accumulator_bit": "reading or writing a bit of the accumulators",
    "signature_word": "a weight in the signature unit, without its registers",
    "gate": "a gate with two inputs, in the decoder of a code",
}
OPTIONAL = "multiplication"
FIELDS = ("pj", "technology", "source")
#: No event of an accelerator takes a microjoule.
MOST_PJ = 1e6


@dataclass(frozen=True)
class Entry:
    """An energy in pJ, the technology that it holds for, and where it is from."""

    pj: float
    technology: str
    source: str


@dataclass(frozen=True)
class EnergyTable:
    """The energies of all events.

    Parameters
    ----------
    entries : mapping of str to Entry
        By names of ``NAMES``.

    Raises
    ------
    ValueError
        When an entry is missing or unknown.
    """

    entries: Mapping[str, Entry]

    def __post_init__(self) -> None:
        for name in self.entries:
            if name not in NAMES:
                raise ValueError(f"There is no energy {name!r}; it may be {', '.join(NAMES)}")
        for name in NAMES:
            if name not in self.entries and name != OPTIONAL:
                raise ValueError(f"The energy table has no {name}")

    @classmethod
    def default(cls) -> EnergyTable:
        """Return the table that the project ships."""
        return cls(_shipped())

    @classmethod
    def load(cls, path: str | os.PathLike) -> EnergyTable:
        """Return the shipped table with the entries of a file in place of those of the same name.

        Raises
        ------
        ValueError
            When the file is no such table, naming the line.
        OSError
            When it cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{os.fspath(path)} is not a text file") from None
        return cls({**_shipped(), **parse(text, os.fspath(path))})

    def __getitem__(self, name: str) -> float:
        """Return an energy, pJ."""
        return self.entries[name].pj

    def multiplication(self, multiplier: Multiplier | None) -> Entry | None:
        """Return the energy of a product: that of the table where it has one, else the multiplier's published power x delay.

        The published power is that of a circuit that takes a new pair of operands in every one of its own delays, so that power
        times delay is the energy of one operation. At a slower clock the dynamic part of it stays, and leakage adds up. None where
        neither is known, as of a multiplier that is None.
        """
        if OPTIONAL in self.entries:
            return self.entries[OPTIONAL]
        if multiplier is None or multiplier.power_mw is None or multiplier.delay_ns is None:
            return None
        published = f"{multiplier.key}: {multiplier.power_mw:g} mW x {multiplier.delay_ns:g} ns"
        # mW times ns are pJ.
        return Entry(multiplier.power_mw * multiplier.delay_ns, "45 nm PDK", f"EvoApproxLib, {published}, one operation per delay")


def parse(text: str, where: str) -> dict[str, Entry]:
    """Return the entries of a YAML text.

    Parameters
    ----------
    where : str
        What messages call it.

    Raises
    ------
    ValueError
        Naming the line, and what is allowed there.
    """
    entries = {}
    for name, node in parse_yaml(text, where, "An energy table").mapping(NAMES).items():
        values = node.mapping(FIELDS)
        for field in FIELDS:
            if field not in values:
                raise node.error(f"{name} needs {', '.join(FIELDS)}, and has no {field}")
        pj = values["pj"].number(0, MOST_PJ)
        entries[name] = Entry(pj, values["technology"].text("a text"), values["source"].text("a text"))
    return entries


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Entry]:
    name = "data_files/energy.yaml"
    return parse(resources.files("epsilon").joinpath(name).read_text(encoding="utf-8"), name)
