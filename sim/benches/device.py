"""The simulated accelerator of a bench behind the ``Accelerator`` protocol."""

from __future__ import annotations

from cocotb.task import resume

from sim.benches.streams import StreamBench
from sim.driver import ArrayDriver
from sim.program import Program, Run

__all__ = ["CocotbAccelerator"]


class CocotbAccelerator(ArrayDriver):
    """Implements ``Accelerator`` on a bench, for blocking code that runs inside ``cocotb.bridge``.

    Parameters
    ----------
    bench : StreamBench
        Reset.
    slack : int
        How many times as long as the cycle model says an image may take: more than 2 where streams pause.
    """

    def __init__(self, bench: StreamBench, *, slack: int = 2) -> None:
        super().__init__(bench.config)
        self._slack = slack
        self._run_program = resume(bench.run)

    def execute(self, program: Program, *, expected_cycles: int) -> Run:
        """Run a program in simulated time."""
        return self._run_program(program, max_cycles=self._slack * expected_cycles + 1000)
