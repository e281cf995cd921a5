"""One measurement of one simulator, as a process of its own: build, run, print one line of JSON.

Every simulator runs the same work, tiles of a convolution with random weights and activations at full rate, in programs as long as
its speed allows, and its sums are compared with the multiplier's table.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from epsilon.config import ArrayConfig
from hdl.layouts import Command
from sim import cycles
from sim import program as streams
from sim.program import Program

__all__ = ["WORKERS", "Pace", "Work", "memory_mb", "work_of"]

#: Vectors of a tile: a layer with 16x16 outputs.
VECTORS = 256
#: Tiles whose sums are added up: 16 channels by a 3x3 kernel, on a 16x16 array.
REDUCTION = 9
FIRST_CYCLES, MOST_CYCLES = 40, 400_000
#: Lanes times cycles of a program, for the memory of its activations.
MOST_LANE_CYCLES = 8_000_000
#: Runs of which the fastest tells the share of the transposition.
SHARE_RUNS = 7
#: Vectors whose sums are compared.
CHECKED = 32


@dataclass(frozen=True, eq=False)
class Work:
    """A program, its weights int8 (tiles, rows, cols), its activations int8 (tiles, vectors, rows), and its cycles by the model.

    The tiles add up in groups of ``REDUCTION``.
    """

    program: Program
    weights: np.ndarray
    activations: np.ndarray
    cycles: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.activations.size * self.weights.shape[2]

    def require_equal(self, config: ArrayConfig, results: np.ndarray) -> None:
        """Raise RuntimeError where the sums are not those of the multiplier's table."""
        table = config.multiplier.table().astype(np.int64)
        tiles = min(len(self.weights), REDUCTION)
        vectors = min(self.activations.shape[1], CHECKED)
        a, b = self.activations[:tiles, :vectors].astype(np.int64) + 128, self.weights[:tiles].astype(np.int64) + 128
        wanted = table[a[..., None], b[:, None]].sum(axis=(0, 2)).astype(np.int32)
        got = np.ascontiguousarray(results).view("<i4").reshape(-1, config.cols)[:vectors]
        if not np.array_equal(got, wanted):
            raise RuntimeError("The simulator's sums are not those of the multiplier's table")


def work_of(config: ArrayConfig, target: int, *, lanes: int | None = None) -> Work:
    """Return work of about ``target`` cycles; with ``lanes`` its program has activations of their own for so many."""
    rng = np.random.default_rng(target)
    load = config.rows + 1
    vectors = max(load, min(VECTORS, config.accumulator_depth, target))
    tiles = max(1, target // vectors)
    weights = rng.integers(-128, 128, (tiles, config.rows, config.cols)).astype(np.int8)
    shape = (tiles, vectors, config.rows)
    if lanes is None:
        activations = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        # What all lanes take in one beat lies together.
        beats = rng.integers(0, 256, (tiles * vectors, lanes, config.rows), dtype=np.uint8)
        activations = beats.swapaxes(0, 1)
    place = np.arange(tiles)
    last = (place % REDUCTION == REDUCTION - 1) | (place == tiles - 1)
    program = Program(
        commands=streams.command_beats(
            vectors=np.full(tiles, vectors), rows=config.rows, cols=config.cols, first=place % REDUCTION == 0, last=last
        ),
        weights=streams.tile_beats(weights.view(np.uint8).astype(np.uint16)),
        activations=activations.reshape(-1, config.rows) if lanes is None else activations,
        faults=np.zeros((0, 2 * config.cols), np.uint8),
        results=int(last.sum()) * vectors,
        readback=0,
        signatures=0,
    )
    own = activations if lanes is None else np.ascontiguousarray(activations[0]).reshape(shape)
    return Work(program, weights, own.view(np.int8), cycles.program_cycles(config, [vectors] * tiles))


class Pace:
    """Chooses how long the programs are, and keeps the fastest.

    Programs grow until one takes long enough to be timed; that one is repeated until ``span_s`` is over.

    Parameters
    ----------
    make : callable
        Takes a number of cycles, returns work.
    span_s : float
        Seconds to measure.
    most_cycles : int
        Longest program.
    """

    def __init__(self, make: Callable[[int], Work], span_s: float, most_cycles: int = MOST_CYCLES) -> None:
        self._make, self._span_s, self._most = make, span_s, most_cycles
        self.best_s = float("inf")
        self.spent_s = 0.0
        self._last_s = 0.0
        self.work = make(FIRST_CYCLES)

    def __iter__(self) -> Iterator[Work]:
        yield self.work  # what a simulator does only once is not timed
        timed = False
        while not timed or self.spent_s < self._span_s:
            yield self.work
            if timed or self._last_s >= self._span_s / 4 or self.work.cycles >= self._most:
                timed = True
                self.best_s = min(self.best_s, self._last_s)
                self.spent_s += self._last_s
            else:
                growth = min(30.0, max(2.0, self._span_s / 3 / max(self._last_s, 1e-6)))
                self.work = self._make(int(min(1.1 * self._most, self.work.cycles * growth)))

    def took(self, seconds: float) -> None:
        """Note how long the last work took."""
        self._last_s = seconds

    def figures(self, lanes: int = 1) -> dict:
        """Return the speed of the fastest run."""
        return {
            "mac_per_s": lanes * self.work.macs / self.best_s,
            "cycles_per_s": self.work.cycles / self.best_s,
            "program_cycles": self.work.cycles,
        }


def memory_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _amaranth(config: ArrayConfig, span_s: float) -> dict:
    """Amaranth's own simulator."""
    from amaranth.sim import Simulator

    from hdl.accelerator import EpsilonAccelerator

    start = time.perf_counter()
    dut = EpsilonAccelerator(config)
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    names = ("commands", "weights", "activations")
    inputs = [getattr(dut, name) for name in names]
    pace = Pace(lambda target: work_of(config, target), span_s)
    found = {}

    async def bench(ctx) -> None:
        ctx.set(dut.results.ready, 1)
        found["build_s"] = time.perf_counter() - start
        for work in pace:
            begun = time.perf_counter()
            beats = [[int.from_bytes(beat.tobytes(), "little") for beat in getattr(work.program, name)] for name in names]
            results, at = [], [0] * len(names)
            for index, stream in enumerate(inputs):
                ctx.set(stream.payload.as_value(), beats[index][0])
                ctx.set(stream.valid, 1)
            while len(results) < work.program.results:
                _, _, *ready, valid, payload = await ctx.tick().sample(
                    *(stream.ready for stream in inputs), dut.results.valid, dut.results.payload.as_value()
                )
                if valid:
                    results.append(payload)
                for index, stream in enumerate(inputs):
                    if ready[index] and at[index] < len(beats[index]):
                        at[index] += 1
                        if at[index] < len(beats[index]):
                            ctx.set(stream.payload.as_value(), beats[index][at[index]])
                        else:
                            ctx.set(stream.valid, 0)
            pace.took(time.perf_counter() - begun)
            width = 4 * config.cols
            work.require_equal(config, np.frombuffer(b"".join(value.to_bytes(width, "little") for value in results), np.uint8))

    simulator.add_testbench(bench)
    simulator.run()
    return {**found, **pace.figures(), "memory_mb": memory_mb()}


def _cocotb(simulator: str) -> Callable[[ArrayConfig, float], dict]:
    def measure(config: ArrayConfig, span_s: float) -> dict:
        import os
        import tempfile

        from hdl import verilog
        from sim.benches.runner import Bench, require_simulator, run_bench

        require_simulator(simulator)
        bench = Bench("speed", verilog.TOP_MODULE, config, verilog.generate)
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "speed.json")
            os.environ |= {"EPSILON_SPEED_FILE": str(answer), "EPSILON_SPEED_SPAN": str(span_s)}
            result = run_bench(bench, simulator, Path(folder))
            if result.failed:
                raise RuntimeError("; ".join(result.failed.values()))
            found = json.loads(answer.read_text())
        ran_s = found.pop("ran_s")
        return {**found, "build_s": result.seconds - ran_s}

    return measure


def _verilated(config: ArrayConfig, span_s: float) -> dict:
    """Verilator in process."""
    from sim.verilated import VerilatedModel

    start = time.perf_counter()
    model = VerilatedModel(config)
    build_s = time.perf_counter() - start
    pace = Pace(lambda target: work_of(config, target), span_s)
    for work in pace:
        begun = time.perf_counter()
        run = model.run(work.program, max_cycles=4 * work.cycles + 1000)
        pace.took(time.perf_counter() - begun)
        work.require_equal(config, run.results)
    return {"build_s": build_s, **pace.figures(), "memory_mb": memory_mb()}


def _lanes(lanes: int, threads: int, backend: str) -> Callable[[ArrayConfig, float], dict]:
    def measure(config: ArrayConfig, span_s: float) -> dict:
        from sim.lanes.model import LanesModel

        start = time.perf_counter()
        model = LanesModel(config, lanes=lanes, threads=threads, backend=backend)
        build_s = time.perf_counter() - start
        pace = Pace(lambda target: work_of(config, target, lanes=lanes), span_s, MOST_LANE_CYCLES // lanes)
        for work in pace:
            begun = time.perf_counter()
            results = _run_lanes(model, work.program)
            pace.took(time.perf_counter() - begun)
            work.require_equal(config, results[0])
        found = {"build_s": build_s, **pace.figures(lanes), "memory_mb": memory_mb()}
        if threads == 1:
            found["transposition"] = _transposition(model, pace.work)
        return found

    return measure


def _run_lanes(model, program: Program) -> np.ndarray:
    """Run a program whose activations are (lanes, beats, bytes) or the same for all lanes; return the results of all lanes."""
    from sim.lanes.model import LaneProgram

    streams_of = {name: getattr(program, name) for name in ("commands", "weights", "activations", "faults")}
    counts = {name: getattr(program, name) for name in ("results", "readback", "signatures")}
    return model.run(LaneProgram(**streams_of, **counts), max_cycles=4 * program.activations.shape[-2] + 10_000).results


def _transposition(model, work: Work) -> float:
    """Return the share of the time that goes into transposing activations and results, found by leaving them out in turn."""
    program = work.program
    silent = program.commands.copy().view("<u8")
    last = np.uint64(1 << Command.as_shape()["last"].offset)
    silent &= ~last
    variants = (
        program,
        replace(program, activations=program.activations[0]),
        replace(program, commands=silent.view(np.uint8), results=0),
    )
    spent = [float("inf")] * len(variants)
    for _ in range(SHARE_RUNS):
        for index, variant in enumerate(variants):
            begun = time.process_time()
            _run_lanes(model, variant)
            spent[index] = min(spent[index], time.process_time() - begun)
    whole, same_activations, no_results = spent
    return max(0.0, (2 * whole - same_activations - no_results) / whole)


#: By simulator; those of lanes take lanes, threads and back end as well.
WORKERS = {"amaranth": _amaranth, "icarus": _cocotb("icarus"), "cocotb": _cocotb("verilator"), "verilator": _verilated}


def main(arguments: list[str]) -> None:
    """Measure: simulator, configuration as JSON, seconds[, lanes, threads, back end]."""
    simulator, described, span_s, *options = arguments
    config = ArrayConfig(**json.loads(described))
    worker = _lanes(int(options[0]), int(options[1]), options[2]) if simulator == "lanes" else WORKERS[simulator]
    try:
        found = worker(config, float(span_s))
    except (ValueError, RuntimeError) as error:
        found = {"error": " ".join(str(error).split())[:300]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
