"""Energies of the events, each with its source, from a YAML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

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

    def multiplication(self, multiplier: Multiplier) -> Entry | None:
        """Return the energy of a product: that of the table where it has one, else the multiplier's published power x delay.

        The published power is that of a circuit that takes a new pair of operands in every one of its own delays, so that power
        times delay is the energy of one operation. At a slower clock the dynamic part of it stays, and leakage adds up. None where
        neither is known.
        """
        if OPTIONAL in self.entries:
            return self.entries[OPTIONAL]
        if multiplier.power_mw is None or multiplier.delay_ns is None:
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
    import yaml

    def refuse(node: yaml.Node, what: str) -> ValueError:
        return ValueError(f"{where}, line {node.start_mark.line + 1}: {what}")

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        raise ValueError(f"{where}, line {line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from None
    if root is None:
        return {}

    def members(node: yaml.Node, what: str, allowed: tuple[str, ...]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise refuse(node, f"{what} must be a mapping with {', '.join(allowed)}")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value not in allowed:
                raise refuse(key, f"{what} has no {key.value!r}; it may have {', '.join(allowed)}")
            if key.value in found:
                raise refuse(key, f"{key.value} is given twice")
            found[key.value] = value
        return found

    entries = {}
    for name, node in members(root, "an energy table", tuple(NAMES)).items():
        values = members(node, name, FIELDS)
        for field in FIELDS:
            if field not in values:
                raise refuse(node, f"{name} needs {', '.join(FIELDS)}, and has no {field}")
            if not isinstance(values[field], yaml.ScalarNode) or not values[field].value.strip():
                raise refuse(values[field], f"the {field} of {name} must be {'a number' if field == 'pj' else 'text'}")
        number = values["pj"].value
        try:
            pj = float(number)
        except ValueError:
            pj = math.nan
        if not (math.isfinite(pj) and pj >= 0):
            raise refuse(values["pj"], f"the pj of {name} must be a number of at least 0, not {number!r}")
        entries[name] = Entry(pj, values["technology"].value, values["source"].value)
    return entries


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Entry]:
    name = "data_files/energy.yaml"
    return parse(resources.files("epsilon").joinpath(name).read_text(encoding="utf-8"), name)
