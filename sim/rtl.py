"""The accelerator as Verilated RTL in process."""

from __future__ import annotations

import os

from epsilon.config import ArrayConfig
from sim.driver import ArrayDriver
from sim.program import Program, Run
from sim.verilated import VerilatedModel

__all__ = ["RtlAccelerator"]


class RtlAccelerator(ArrayDriver):
    """Implements ``Accelerator`` on the Verilated model; the first use of a configuration builds it.

    Parameters
    ----------
    config : ArrayConfig
    waves : path or None
        Record everything into this VCD file; it is complete after ``close``.

    Raises
    ------
    ToolError
        When Verilator or a C++ compiler is missing or fails.
    """

    def __init__(self, config: ArrayConfig, *, waves: str | os.PathLike | None = None) -> None:
        super().__init__(config)
        self._model = VerilatedModel(config, waves=waves)

    def execute(self, program: Program, *, expected_cycles: int) -> Run:
        """Run a program; without stalls it takes the expected cycles, and much longer means that it hangs."""
        return self._model.run(program, max_cycles=2 * expected_cycles + 1000)

    def close(self) -> None:
        """Free the model."""
        self._model.close()
