"""The accelerator simulated at its netlist, one simulation per bit lane: whole programs per call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from epsilon.config import ArrayConfig
from sim.lanes.backend import choose
from sim.lanes.build import build_accelerator
from sim.program import beat_bytes
from sim.verilated import FAILURES, INPUTS, OUTPUTS, SimulationError

__all__ = ["LaneProgram", "LaneRun", "LanesModel"]


class _Job(ctypes.Structure):
    """Mirror of ``struct Job`` in driver.cpp."""

    _fields_ = [
        ("input", ctypes.c_void_p * 4),
        ("input_lane_stride", ctypes.c_int64 * 4),
        ("input_beat_stride", ctypes.c_int64 * 4),
        ("input_beats", ctypes.c_uint64 * 4),
        ("input_taken", ctypes.c_uint64 * 4),
        ("output", ctypes.c_void_p * 3),
        ("output_lane_stride", ctypes.c_int64 * 3),
        ("output_capacity", ctypes.c_uint64 * 3),
        ("output_beats", ctypes.c_uint64 * 3),
        ("lanes", ctypes.c_uint64),
        ("max_cycles", ctypes.c_uint64),
        ("busy_cycles", ctypes.c_uint64),
        ("clock_cycles", ctypes.c_uint64),
        ("input_pause", ctypes.c_uint32 * 4),
        ("output_pause", ctypes.c_uint32 * 3),
        ("seed", ctypes.c_uint64),
        ("trace", ctypes.c_void_p),
        ("trace_cycles", ctypes.c_uint64),
    ]


@dataclass(frozen=True, eq=False)
class LaneProgram:
    """The beats of every input stream, uint8, and how many output beats each lane puts out.

    ``commands`` (beats, 8) is the same in all lanes. ``weights``, ``activations`` and ``faults`` are (beats, bytes), then also the
    same in all lanes, or (lanes, beats, bytes); any strides, as long as the bytes of a beat are adjacent.
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
    """The beats of every output stream, uint8 (lanes, beats, bytes), and what is the same in all lanes.

    ``accepted`` beats that each accelerator took from every input stream.
    """

    results: np.ndarray
    readback: np.ndarray
    signatures: np.ndarray
    busy_cycles: int
    clock_cycles: int
    accepted: dict[str, int]


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
        chosen = choose(backend)
        lanes = chosen.lanes if lanes is None else lanes
        for what, value in (("lanes", lanes), ("threads", threads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"The number of {what} must be a positive integer, not {value!r}")
        self.config = config
        self.backend = chosen
        self._lanes = lanes
        self.beat_bytes = beat_bytes(config)
        self._built = built = build_accelerator(config, chosen, nets=nets)
        self._library = library = built.library
        library.lanes_new.restype = ctypes.c_void_p
        for name in ("lanes_delete", "epsilon_reset", "lanes_unstick", "lanes_refresh"):
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p], None
        library.lanes_stick.argtypes = [ctypes.c_void_p] + [ctypes.c_int] * 4
        library.epsilon_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Job)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._handles: list[int] = []
        for _ in range(-(-lanes // chosen.lanes)):
            handle = library.lanes_new()
            if not handle:
                self.close()
                raise MemoryError(f"Not enough memory for {lanes} lanes")
            self._handles.append(handle)
        self.reset()

    @property
    def lanes(self) -> int:
        """Number of simulations."""
        return self._lanes

    def net_names(self) -> list[str]:
        """Return the names of the nets of a processing element that can be stuck (only with ``nets``)."""
        return list(self._built.net_names)

    def set_net_faults(self, faults: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Replace the stuck nets: (lane, row, col, index in ``net_names()``, value 0 or 1) each; takes effect at once.

        Raises
        ------
        ValueError
            For a lane, a processing element or a net that does not exist.
        """
        for handle in self._handles:
            self._library.lanes_unstick(handle)
        for lane, row, col, net, value in faults:
            fits = 0 <= lane < self._lanes and 0 <= row < self.config.rows and 0 <= col < self.config.cols
            if not fits or not 0 <= net < len(self._built.net_names) or value not in (0, 1):
                raise ValueError(f"There is no net {net} of the PE ({row}, {col}) in lane {lane} to be stuck at {value}")
            word, bit = divmod(int(lane), self.backend.lanes)
            if self._library.lanes_stick(self._handles[word], self._built.instances[row, col], int(net), bit, int(value)):
                raise MemoryError("Not enough memory for the masks of the stuck nets")
        for handle in self._handles:
            self._library.lanes_refresh(handle)

    def reset(self) -> None:
        """Reset every accelerator."""
        for handle in self._handles:
            self._library.epsilon_reset(handle)

    def close(self) -> None:
        """Free the memory."""
        for handle in self._handles:
            self._library.lanes_delete(handle)
        self._handles = []
        if self._pool:
            self._pool.shutdown()
            self._pool = None

    def __del__(self) -> None:
        if getattr(self, "_handles", None):
            self.close()

    def run(
        self,
        program: LaneProgram,
        *,
        max_cycles: int,
        pauses: dict[str, float] | None = None,
        seed: int = 1,
        trace: np.ndarray | None = None,
    ) -> LaneRun:
        """Run a program until every accelerator is idle again; parameters and errors as of ``sim.verilated.VerilatedModel.run``.

        Parameters
        ----------
        trace : uint8 (cycles, lanes, record) or None
            Takes every output in each of the first cycles, see ``trace_record``; for comparisons.
        """
        inputs = [self._checked(name, getattr(program, name)) for name in INPUTS]
        outputs = [np.zeros((self._lanes, getattr(program, name), self.beat_bytes[name]), dtype=np.uint8) for name in OUTPUTS]
        width = self.backend.lanes
        jobs = []
        for word in range(len(self._handles)):
            first = word * width
            job = _Job(lanes=min(width, self._lanes - first), max_cycles=max_cycles, seed=seed)
            for index, beats in enumerate(inputs):
                lane_stride = beats.strides[0] if beats.ndim == 3 else 0
                job.input[index] = beats.ctypes.data + first * lane_stride
                job.input_lane_stride[index] = lane_stride
                job.input_beat_stride[index] = beats.strides[-2]
                job.input_beats[index] = beats.shape[-2]
                job.input_pause[index] = round(65536 * (pauses or {}).get(INPUTS[index], 0))
            for index, beats in enumerate(outputs):
                job.output[index] = beats.ctypes.data + first * beats.strides[0]
                job.output_lane_stride[index] = beats.strides[0]
                job.output_capacity[index] = beats.shape[1]
                job.output_pause[index] = round(65536 * (pauses or {}).get(OUTPUTS[index], 0))
            if trace is not None:
                # One word of lanes only: its records are adjacent.
                job.trace, job.trace_cycles = trace.ctypes.data, len(trace)
            jobs.append(job)
        call = (self._pool.map if self._pool else map)(self._run_one, self._handles, jobs)
        statuses = list(call)
        job = jobs[0]
        for status in statuses:
            if status:
                raise SimulationError("The accelerator " + FAILURES[status].format(max_cycles=max_cycles))
        for name, beats, written in zip(OUTPUTS, outputs, job.output_beats, strict=True):
            if written != beats.shape[1]:
                raise SimulationError(f"The accelerator put out {written} beats of {name}, not {beats.shape[1]}")
        accepted = dict(zip(INPUTS, job.input_taken, strict=True))
        return LaneRun(*outputs, busy_cycles=job.busy_cycles, clock_cycles=job.clock_cycles, accepted=accepted)

    def _run_one(self, handle: int, job: _Job) -> int:
        return self._library.epsilon_run(handle, ctypes.byref(job))

    def _checked(self, name: str, beats: np.ndarray) -> np.ndarray:
        width = self.beat_bytes[name]
        shapes = f"(beats, {width})" if name == "commands" else f"(beats, {width}) or ({self._lanes}, beats, {width})"
        alike = beats.ndim == 2 or (name != "commands" and beats.ndim == 3 and len(beats) == self._lanes)
        if beats.dtype != np.uint8 or not alike or beats.shape[-1] != width:
            raise ValueError(f"Beats of {name} must be uint8 {shapes}, not {beats.dtype} {beats.shape}")
        if beats.strides[-1] != 1 or (beats.ndim == 3 and beats.strides[0] == 0):
            beats = np.ascontiguousarray(beats)
        return beats
