"""Speed of the engine against torch's own float32 convolutions, in one run, every sum of a sample checked against the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn import functional

from epsilon import integer, multipliers
from epsilon.engine.packing import pack
from epsilon.engine.reference import reference_sums
from epsilon.engine.shapes import LayerShape
from epsilon.multipliers import Multiplier
from epsilon.network import Convolution, Linear, Requantization, WeightedLayer

__all__ = ["ENTRANTS", "SHAPES", "Case", "Measurement", "bench"]

#: Outputs and images whose sums are checked, and from whose outputs the time of the plain gather is extrapolated.
CHECKED_OUTPUTS, CHECKED_IMAGES = 8, 2


@dataclass(frozen=True)
class Case:
    """A layer and a batch for it: images of ``side`` x ``side``."""

    shape: LayerShape
    batch: int
    side: int = 1

    @property
    def macs(self) -> int:
        """Products of the batch."""
        return self.shape.macs(self.batch, self.side, self.side)


def _square(channels: int, outputs: int, kernel: int, groups: int = 1) -> LayerShape:
    pad = kernel // 2
    return LayerShape(channels=channels, outputs=outputs, kernel=(kernel, kernel), padding=(pad, pad), groups=groups)


#: The layers that are measured, by name.
SHAPES = {
    "first": Case(_square(3, 64, 3), 8, 32),
    "conv64": Case(_square(64, 64, 3), 8, 32),
    "conv256": Case(_square(256, 256, 3), 8, 8),
    "depthwise": Case(_square(1, 1, 3, groups=128), 8, 16),
    "pointwise": Case(_square(256, 256, 1), 8, 8),
    "linear": Case(LayerShape(channels=512, outputs=512, linear=True), 64),
}


@dataclass(frozen=True, eq=False)
class RandomTable:
    """A multiplier of which nothing is known but its table."""

    terms = None

    def table(self) -> np.ndarray:
        """Return 65,536 random products of 16 bits, always the same."""
        return np.random.default_rng(1).integers(-(2**15), 2**15, (256, 256)).astype(np.int16)


def _of_rank(rank: int) -> Multiplier:
    return next(multiplier for multiplier in multipliers.catalogue().values() if len(multiplier.terms) == rank)


#: What is measured: multipliers of so many terms, and an arbitrary table.
ENTRANTS: dict[str, Callable[[], Multiplier | RandomTable]] = {
    "rank 1": lambda: _of_rank(1),
    "rank 3": lambda: _of_rank(3),
    "rank 5": lambda: _of_rank(5),
    "table": RandomTable,
}


@dataclass(frozen=True)
class Measurement:
    """One layer on so many threads: milliseconds, the least of all repetitions (processor time where there is one thread).

    ``native_ms`` is the faster of torch's two memory formats, ``ms`` the engine's by entrant, requantisation included,
    ``gather_ms`` a plain gather from the table as other emulators do it, extrapolated from a part of the outputs. ``exact``:
    whether every sum and code of the sample was right.
    """

    shape: str
    threads: int
    macs: int
    native_ms: float
    ms: dict[str, float]
    gather_ms: float
    exact: bool

    def ratio(self, entrant: str) -> float:
        """Return the engine's time over the native one."""
        return self.ms[entrant] / self.native_ms

    def describe(self) -> dict:
        """Return everything as plain JSON."""
        ratios = {name: self.ratio(name) for name in self.ms}
        return {**asdict(self), "ratios": ratios, "gather_ratio": self.gather_ms / self.native_ms}


def bench(names: list[str], *, threads: list[int], repeat: int, device: str = "cpu", engine: str = "auto") -> Iterator[Measurement]:
    """Measure layers one after another.

    Parameters
    ----------
    names : list of str
        Of ``SHAPES``.
    threads : list of int
        Numbers of threads; torch's own number is set back at the end.
    repeat : int
        Repetitions; native and engine take turns, so that a slow moment of the machine meets both.
    device, engine : str
        See ``Emulator``.

    Raises
    ------
    ValueError
        For an unknown shape or engine, and a device that torch does not have.
    """
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise ValueError(f"The shape must be one of {', '.join(SHAPES)}, not {unknown[0]!r}")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Cannot use the device {device!r}: {str(error).splitlines()[0]}") from None
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for name in names:
                yield _measure(name, count, repeat, place, engine)
    finally:
        torch.set_num_threads(before)


def _measure(name: str, threads: int, repeat: int, device: torch.device, engine: str) -> Measurement:
    case = SHAPES[name]
    rng = np.random.default_rng(0)
    layer = _layer(case.shape, rng)
    sides = () if case.shape.linear else (case.side, case.side)
    codes = torch.from_numpy(rng.integers(-128, 128, (case.batch, case.shape.groups * case.shape.channels, *sides)).astype(np.int8))
    # As the layer before would leave them.
    codes = codes.to(device) if case.shape.linear else codes.to(device, memory_format=torch.channels_last)
    bias = torch.from_numpy(layer.bias).to(device)

    runs, exact = {"native": _native(case.shape, layer, codes)}, True
    if not case.shape.linear:
        runs["native NCHW"] = _native(case.shape, layer, codes.contiguous())
    for entrant, make in ENTRANTS.items():
        multiplier = make()
        packed = pack(layer, layer.matrix, multiplier, device, engine=engine)

        def run(packed=packed) -> torch.Tensor:
            return integer.requantize(packed.run(codes), layer.requantization, bias)

        runs[entrant] = run
        exact = exact and _is_exact(case.shape, layer, multiplier.table(), codes, packed.run(codes), run())
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for which, run in runs.items():
            least[which] = min(least[which], _milliseconds(run, device))
    native = min(least[which] for which in least if which.startswith("native"))
    gather, share = _gather(case.shape, layer, RandomTable().table(), codes)
    gather_ms = _milliseconds(gather, device) / share
    return Measurement(name, threads, case.macs, native, {entrant: least[entrant] for entrant in ENTRANTS}, gather_ms, exact)


def _layer(shape: LayerShape, rng: np.random.Generator) -> WeightedLayer:
    outputs = shape.groups * shape.outputs
    sides = () if shape.linear else shape.kernel
    fields = {
        "name": "layer",
        "inputs": ("input",),
        "weight": rng.integers(-127, 128, (outputs, shape.channels, *sides)).astype(np.int8),
        "bias": rng.integers(-5000, 5000, outputs).astype(np.int32),
        "requantization": Requantization(rng.integers(2**29, 2**30, outputs).astype(np.int32), np.full(outputs, 42, np.int8)),
    }
    if shape.linear:
        return Linear(**fields)
    return Convolution(**fields, stride=shape.stride, padding=shape.padding, groups=shape.groups)


def _native(shape: LayerShape, layer: WeightedLayer, codes: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return torch's float32 layer, weights and activations already in float32."""
    x, weight = codes.float(), torch.from_numpy(layer.weight).float().to(codes.device)
    if shape.linear:
        return lambda: functional.linear(x, weight)
    return lambda: functional.conv2d(x, weight, stride=shape.stride, padding=shape.padding, groups=shape.groups)


def _gather(shape: LayerShape, layer: WeightedLayer, table: np.ndarray, codes: torch.Tensor) -> tuple[Callable[[], None], float]:
    """Return products taken from the table one by one, for some outputs of every group, and which share of all they are."""
    outputs = range(min(CHECKED_OUTPUTS, shape.outputs))
    flat = torch.from_numpy(table.astype(np.int32).ravel()).to(codes.device)
    weights = torch.from_numpy(layer.matrix.astype(np.int64) + 128).to(codes.device).reshape(shape.groups, shape.outputs, 1, -1)

    def run() -> None:
        x = (codes.reshape(*codes.shape, 1, 1) if shape.linear else codes).float()
        patches = functional.unfold(x, shape.kernel, stride=shape.stride, padding=shape.padding).transpose(1, 2)
        rows = (patches.long() + 128) * 256
        for group, places in enumerate(rows.chunk(shape.groups, dim=2)):
            for output in outputs:
                flat.take(places + weights[group, output]).sum(dim=2)

    return run, len(outputs) / shape.outputs


def _is_exact(
    shape: LayerShape, layer: WeightedLayer, table: np.ndarray, codes: torch.Tensor, sums: torch.Tensor, results: torch.Tensor
) -> bool:
    """Return whether sums and requantised codes of a sample are right: some images, some outputs (all of grouped layers)."""
    images = np.unique(np.linspace(0, len(codes) - 1, CHECKED_IMAGES).astype(int))
    outputs = np.arange(shape.groups * shape.outputs)
    if shape.groups == 1:
        outputs = np.unique(np.linspace(0, shape.outputs - 1, CHECKED_OUTPUTS).astype(int))
        shape = LayerShape(**{**asdict(shape), "outputs": len(outputs)})
    wanted = reference_sums(shape, layer.matrix[outputs], table, codes.cpu().numpy()[images])
    if not np.array_equal(sums.cpu().numpy()[images][:, outputs], wanted):
        return False
    form = layer.requantization
    across = (1, -1, *(1,) * (wanted.ndim - 2))
    bias, factor, shift = (values[outputs].astype(np.int64).reshape(across) for values in (layer.bias, form.multiplier, form.shift))
    scaled = ((wanted + bias) * factor + (np.int64(1) << (shift - 1))) >> shift
    return np.array_equal(results.cpu().numpy()[images][:, outputs], scaled.clip(form.low, form.high))


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Return how long a run takes: on one thread its processor time, so that other work on the machine does not count."""
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - start)
