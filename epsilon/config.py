"""The configuration of the systolic-array accelerator: one frozen object for the hardware, the simulators and the emulator."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields

from epsilon import multipliers
from epsilon.multipliers import Multiplier

__all__ = ["ArrayConfig"]

MAX_SIDE = 64
MIN_DEPTH, MAX_DEPTH = 1, 4096
LEVELS = ("words", "gates")


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """Parameters of an accelerator.

    Parameters
    ----------
    rows : int
        Rows of the array, the reduction, 1..64.
    cols : int
        Columns of the array, the outputs, 1..64.
    multiplier : Multiplier or str
        The multiplier of every PE (a catalogue name is looked up, a file of your own is read).
    level : str
        ``words`` (sum of masked products: fast simulation, carry chains on an FPGA) or ``gates`` (the carry-save netlist, or your
        own). Both compute the same function.
    accumulator_depth : int
        Activation vectors whose partial results the accumulators hold, 1..4096.
    fault_injection : bool
        Whether the PEs have stuck-at mask registers (and the accelerator a stream to fill them).
    repair : bool
        Whether the PEs have the ``invert`` and ``bypass`` flags.

    Raises
    ------
    ValueError
        For any value outside these ranges, and for a multiplier without a netlist at level ``gates``.
    """

    rows: int = 8
    cols: int = 8
    multiplier: Multiplier | str = "KVP"
    level: str = "words"
    accumulator_depth: int = 1024
    fault_injection: bool = True
    repair: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", multipliers.get(self.multiplier))
        for side in ("rows", "cols"):
            _require_integer(f"The number of array {side}", getattr(self, side), 1, MAX_SIDE)
        _require_integer("The accumulator depth", self.accumulator_depth, MIN_DEPTH, MAX_DEPTH)
        if self.level not in LEVELS:
            raise ValueError(f"The level of the array must be one of {', '.join(LEVELS)}, not {self.level!r}")
        if self.level == "gates":
            self.multiplier.require_form(self.level)
        for flag in ("fault_injection", "repair"):
            if not isinstance(getattr(self, flag), bool):
                raise ValueError(f"{flag} must be True or False, not {getattr(self, flag)!r}")

    @property
    def is_netlist(self) -> bool:
        """Whether the PEs' multipliers are netlists of gates, whatever the level is called."""
        return self.level == "gates" or self.multiplier.is_gates_only

    @property
    def pes(self) -> int:
        """Number of processing elements."""
        return self.rows * self.cols

    def describe(self) -> dict:
        """Return the parameters as plain JSON values; the multiplier by key and function."""
        values = {parameter.name: getattr(self, parameter.name) for parameter in fields(self)}
        return values | {"multiplier": self.multiplier.describe()}

    @property
    def digest(self) -> str:
        """Hash of the whole configuration (16 hexadecimal digits), the key of cached builds and results."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]


def _require_integer(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what} must be an integer from {low} to {high}, not {value!r}")
