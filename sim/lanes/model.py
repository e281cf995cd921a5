"""The accelerator simulated at its netlist, one simulation per bit lane: whole programs per call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epsilon.config import ArrayConfig

__all__ = ["LaneProgram", "LaneRun", "LanesModel"]


@dataclass(frozen=True, eq=False)
class LaneProgram:
    """The beats of every input stream, uint8, and how many output beats each lane puts out.

    ``commands`` (beats, 8) is the same in all lanes. ``weights``, ``activations`` and ``faults`` are (beats, bytes), then also the same
    in all lanes, or (lanes, beats, bytes); any strides, as long as the bytes of a beat are adjacent.
    """

    commands: np.ndarray
    weights: np.ndarray
    activations: np.ndarray
    faults: np.ndarray
    results: int
    readback: int
    signatures: int


@dataclass(frozen=True, eq=False)
class LaneRun:
    """The beats of every output stream, uint8 (lanes, beats, bytes), and the cycles, which are the same in all lanes."""

    results: np.ndarray
    readback: np.ndarray
    signatures: np.ndarray
    busy_cycles: int
    clock_cycles: int


class LanesModel:
    """Many simulated accelerators that carry out the same commands, each on data and faults of its own; reset and idle.

    Parameters
    ----------
    config : ArrayConfig
    lanes : int or None
        Simulations, any positive number; None for one machine word of them.
    backend : str
        ``auto``, or a name of ``sim.lanes.backend.BACKENDS``.
    threads : int
    nets : bool
        Whether every net of the processing elements can be stuck (``set_net_faults``); a build of its own.
    """

    def __init__(
        self, config: ArrayConfig, *, lanes: int | None = None, backend: str = "auto", threads: int = 1, nets: bool = False
    ) -> None:
        raise NotImplementedError

    @property
    def lanes(self) -> int:
        """Number of simulations."""

    def net_names(self) -> list[str]:
        """Return the names of the nets of a processing element that can be stuck (only with ``nets``)."""

    def set_net_faults(self, faults: list[tuple[int, int, int, int, int]]) -> None:
        """Replace the stuck nets: (lane, row, col, index in ``net_names()``, value 0 or 1) each; takes effect at once."""

    def reset(self) -> None:
        """Reset every accelerator."""

    def close(self) -> None:
        """Free the memory."""

    def run(self, program: LaneProgram, *, max_cycles: int, pauses: dict[str, float] | None = None, seed: int = 1) -> LaneRun:
        """Run a program until every accelerator is idle again; parameters and errors as of ``sim.verilated.VerilatedModel.run``."""
