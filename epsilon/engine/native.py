"""The compiled kernels: built on first use for what the processor can, tested once per process, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from epsilon.engine.shapes import LayerShape

__all__ = ["LEVELS", "Level", "Library", "NativeError", "available", "best", "library", "reason"]

HERE = Path(__file__).parent
FLAGS = ("-std=gnu++17", "-O3", "-fwrapv", "-fPIC", "-shared", "-fno-plt", "-w", "-pthread")
MACHINES = ("x86_64", "AMD64")
#: Products that make it worth while to start another thread.
PRODUCTS_PER_THREAD = 500_000
ELEMENTS_PER_THREAD = 100_000


class NativeError(RuntimeError):
    """Kernels that cannot be had here; torch computes instead."""


@dataclass(frozen=True)
class Level:
    """Instructions that kernels are compiled for, and the processor's ``features`` that they need."""

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
#: The fastest first.
LEVELS = {
    level.name: level
    for level in (
        Level("avx512-vnni", frozenset({*AVX512, "avx512_vnni"}), (*(f"-m{name}" for name in AVX512), "-mavx512vnni")),
        Level("avx512", frozenset(AVX512), tuple(f"-m{name}" for name in AVX512)),
        Level("avx2", frozenset({"avx2"}), ("-mavx2",)),
        Level("sse2", frozenset({"sse2"}), ()),
    )
}


class _Job(ctypes.Structure):
    """Mirror of ``struct Job`` in job.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("activations", "weights", "sums", "maps", "masks")),
        *((name, ctypes.c_int32) for name in ("batch", "height", "width", "channels", "groups", "outputs")),
        *((f"{name}_{axis}", ctypes.c_int32) for name in ("kernel", "stride", "padding") for axis in "yx"),
        *((name, ctypes.c_int32) for name in ("out_height", "out_width", "terms", "depth", "start", "threads")),
    ]


class _Requantization(ctypes.Structure):
    """Mirror of ``struct RequantizationJob`` in elementwise.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("sums", "bias", "multiplier", "shift", "codes")),
        *((name, ctypes.c_int64) for name in ("outer", "channels", "inner")),
        *((name, ctypes.c_int32) for name in ("low", "high", "threads")),
    ]


class _Addition(ctypes.Structure):
    """Mirror of ``struct AdditionJob`` in elementwise.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "second", "codes")),
        *((name, ctypes.c_int64) for name in ("count", "first_multiplier", "second_multiplier", "offset")),
        *((name, ctypes.c_int32) for name in ("shift", "low", "high", "threads")),
    ]


class Library:
    """The kernels of one level.

    ``lanes`` is the number of int32 in a vector: panels of packed weights are two vectors wide.
    """

    def __init__(self, level: Level) -> None:
        self.level = level
        self._library = _load(level)
        self.lanes = self._library.epsilon_vector_bytes() // 4

    def convolve(
        self, kernel: str, shape: LayerShape, activations: torch.Tensor, weights: torch.Tensor, maps: torch.Tensor,
        masks: torch.Tensor | None = None, *, terms: int = 1, depth: int, start: int = 0,
    ) -> torch.Tensor:  # fmt: skip
        """Return the sums of a batch.

        Parameters
        ----------
        kernel : str
            ``direct``, ``depthwise``, ``winograd``, ``table`` or ``table_sparse``: how the weights are packed.
        activations : int8 (batch, C, H, W), or (batch, K) for a linear layer
        weights, maps, masks, depth, start
            As the kernel's C++ file says.

        Returns
        -------
        int32 (batch, N, OH, OW) in channels-last memory, or (batch, N).
        """
        if shape.linear:
            activations = activations.contiguous()
            height = width = rows = cols = 1
            sums = torch.empty((len(activations), shape.outputs), dtype=torch.int32)
        else:
            activations = activations.contiguous(memory_format=torch.channels_last)
            height, width = activations.shape[2:]
            rows, cols = shape.sides(height, width)
            size = (len(activations), shape.groups * shape.outputs, rows, cols)
            sums = torch.empty(size, dtype=torch.int32, memory_format=torch.channels_last)
        if not sums.numel():
            return sums
        job = _Job(
            activations.data_ptr(), weights.data_ptr(), sums.data_ptr(), maps.data_ptr(),
            None if masks is None else masks.data_ptr(),
            len(activations), height, width, shape.channels, shape.groups, shape.outputs,
            *shape.kernel, *shape.stride, *shape.padding, rows, cols, terms, depth, start,
            _threads(shape.macs(len(activations), height, width) * terms, PRODUCTS_PER_THREAD),
        )  # fmt: skip
        self._call(kernel, job)
        return sums

    def requantize(
        self, sums: torch.Tensor, bias: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor, low: int, high: int
    ) -> torch.Tensor:
        """Return the codes of int32 ``sums`` (batch, N) or (batch, N, H, W), in the memory format that they have.

        ``bias`` and ``multiplier`` are int32 (N,), ``shift`` int64 (N,); see ``epsilon.network`` for the rounding.
        """
        channels_last = sums.dim() == 4 and sums.is_contiguous(memory_format=torch.channels_last)
        if not channels_last:
            sums = sums.contiguous()
        codes = torch.empty_like(sums, dtype=torch.int8)
        if not sums.numel():
            return codes
        channels = sums.shape[1]
        inner = 1 if channels_last or sums.dim() == 2 else sums[0, 0].numel()
        tensors = (sums, bias, multiplier, shift, codes)
        job = _Requantization(
            *(tensor.data_ptr() for tensor in tensors), sums.numel() // (channels * inner), channels, inner,
            low, high, _threads(sums.numel(), ELEMENTS_PER_THREAD),
        )  # fmt: skip
        self._call("requantize", job)
        return codes

    def add(
        self, first: torch.Tensor, second: torch.Tensor, multiplier: tuple[int, int], offset: int, shift: int, low: int, high: int
    ) -> torch.Tensor:
        """Return ``clamp(first * multiplier[0] + second * multiplier[1] + offset >> shift, low, high)`` in 64-bit integers.

        ``first`` and ``second`` are int8 of one shape; the result has the memory format of ``first``.
        """
        channels_last = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        first, second = (codes.contiguous(memory_format=memory_format) for codes in (first, second))
        codes = torch.empty_like(first)
        if codes.numel():
            job = _Addition(
                first.data_ptr(), second.data_ptr(), codes.data_ptr(), codes.numel(), *multiplier, offset, shift, low, high,
                _threads(codes.numel(), ELEMENTS_PER_THREAD),
            )  # fmt: skip
            self._call("add", job)
        return codes

    def _call(self, kernel: str, job: ctypes.Structure) -> None:
        if getattr(self._library, f"epsilon_{kernel}")(ctypes.byref(job)):
            raise MemoryError(f"No memory for the kernel {kernel}")


def available() -> list[str]:
    """Return the names of the levels that this processor can run, the fastest first."""
    from sim.toolchain import processor_features

    features = processor_features() if platform.machine() in MACHINES else frozenset()
    return [name for name, level in LEVELS.items() if level.features <= features]


@functools.lru_cache(maxsize=len(LEVELS))
def library(name: str) -> Library:
    """Return the kernels of a level, from the cache or newly built (seconds).

    Raises
    ------
    NativeError
        When there is no C++ compiler, the processor lacks the instructions, or a kernel does not give the integers that it must.
    """
    from epsilon.engine.selftest import failing_kernel

    if name not in available():
        raise NativeError(f"this processor cannot run the kernels for {name}")
    found = Library(LEVELS[name])
    failing = failing_kernel(found)
    if failing:
        raise NativeError(f"the kernel {failing} for {name} fails its self-test")
    return found


@functools.lru_cache(maxsize=1)
def _best() -> tuple[Library | None, str]:
    reasons = []
    for name in available():
        try:
            return library(name), ""
        except NativeError as error:
            reasons.append(str(error))
    return None, reasons[0] if reasons else f"no kernels for {platform.machine()} processors"


def best() -> Library | None:
    """Return the fastest kernels that work here; None where none do, see ``reason``."""
    return _best()[0]


def reason() -> str:
    """Return why ``best`` is None, empty where it is not."""
    return _best()[1]


def _threads(work: int, per_thread: int) -> int:
    return max(1, min(torch.get_num_threads(), work // per_thread))


def _load(level: Level) -> ctypes.CDLL:
    # The one place of the project that finds compilers and keeps builds; it imports no simulator.
    from sim.toolchain import ToolError, built_once, cache_folder, cxx_compiler, run_tool, tool_version

    try:
        compiler = cxx_compiler()
        flags = [*FLAGS, *level.flags]
        state = hashlib.sha256(" ".join([tool_version(compiler), platform.machine(), *flags]).encode())
        for source in sorted((*HERE.glob("*.h"), *HERE.glob("*.cpp"))):
            state.update(source.read_bytes())

        def make(work: Path) -> None:
            command = [*compiler.split(), *flags, str(HERE / "kernels.cpp"), "-o", "kernels.so"]
            run_tool(command, cwd=work, what="Compiling the kernels")

        return ctypes.CDLL(str(built_once(cache_folder() / "engine" / state.hexdigest()[:24], make) / "kernels.so"))
    except (ToolError, OSError) as error:
        raise NativeError(str(error)) from None


def aligned(values: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor, whose memory starts at a line of the cache (numpy's need not)."""
    copy = torch.empty(values.shape, dtype=torch.from_numpy(values[:0]).dtype)
    copy.numpy()[...] = values
    return copy
