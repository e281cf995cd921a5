"""Any small Amaranth design in lanes, one clock cycle at a time."""

from __future__ import annotations

import ctypes

import numpy as np

from sim.lanes.backend import build, choose
from sim.lanes.elaborate import read_design
from sim.lanes.generator import Generated, generate

__all__ = ["LaneDesign", "compile_design"]


class LaneDesign:
    """A simulated design: set inputs, ``settle``, read outputs, ``edge``.

    A port that differs between lanes is uint64 (lanes,), any other an int.
    """

    def __init__(self, generated: Generated, backend: str = "auto") -> None:
        chosen = choose(backend)
        self.lanes = chosen.lanes
        self.ports = generated.ports
        self._library = library = build(generated.source, chosen)
        for name, result in (("new", "p"), ("vectors", "p"), ("bits", "p"), ("settle", None), ("edge", None), ("delete", None)):
            function = getattr(library, f"lanes_{name}")
            function.restype = ctypes.c_void_p if result else None
            function.argtypes = [ctypes.c_void_p] if name != "new" else []
        self._handle = library.lanes_new()
        self._vectors, self._bits = library.lanes_vectors(self._handle), library.lanes_bits(self._handle)

    def _words(self, name: str) -> np.ndarray:
        port = self.ports[name]
        size = self.lanes // 8
        start = self._vectors + port.place * size
        buffer = (ctypes.c_uint8 * (port.width * size)).from_address(start)
        return np.frombuffer(buffer, dtype=np.uint8).reshape(port.width, size)

    def _scalars(self, name: str) -> np.ndarray:
        port = self.ports[name]
        return self._bytes(port.place, port.width)

    def _changed(self, name: str) -> np.ndarray:
        return self._bytes(self.ports[name].changed, 1)

    def _bytes(self, place: int, count: int) -> np.ndarray:
        return np.frombuffer((ctypes.c_uint8 * count).from_address(self._bits + place), dtype=np.uint8)

    def set(self, name: str, value: int | np.ndarray) -> None:
        """Set an input."""
        port = self.ports[name]
        if port.varying:
            values = np.broadcast_to(np.asarray(value, dtype=np.uint64), (self.lanes,))
            bits = (values[None, :] >> np.arange(port.width, dtype=np.uint64)[:, None]) & np.uint64(1)
            self._words(name)[:] = np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")
            self._changed(name)[:] = 1
        else:
            self._scalars(name)[:] = [int(value) >> k & 1 for k in range(port.width)]

    def get(self, name: str) -> int | np.ndarray:
        """Return an output as of the last ``settle``."""
        port = self.ports[name]
        if not port.varying:
            return sum(int(bit) << k for k, bit in enumerate(self._scalars(name)))
        bits = np.unpackbits(self._words(name), axis=1, bitorder="little").astype(np.uint64)
        return (bits << np.arange(port.width, dtype=np.uint64)[:, None]).sum(axis=0, dtype=np.uint64)

    def settle(self) -> None:
        """Compute the outputs from the inputs and the state."""
        self._library.lanes_settle(self._handle)

    def edge(self) -> None:
        """Change the state at a rising edge of the clock, as of the last ``settle``."""
        self._library.lanes_edge(self._handle)
        for name, port in self.ports.items():
            if port.changed is not None:
                self._changed(name)[:] = 0

    def close(self) -> None:
        """Free the memory."""
        if self._handle:
            self._library.lanes_delete(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def compile_design(
    component,
    ports: dict,
    *,
    varying_inputs: set[str],
    shared: dict[str, tuple] | None = None,
    platform=None,
    backend: str = "auto",
) -> LaneDesign:
    """Return an Amaranth design as a simulation in lanes.

    Parameters
    ----------
    ports : dict
        The signals to be ports, by name.
    varying_inputs : set of str
        The ports whose values differ between lanes.
    shared : dict or None
        Modules that the design instantiates by ``Instance``: (component, ports) by module name.

    Raises
    ------
    UnsupportedDesign
        For what cannot be simulated in lanes, naming it.
    """
    top, modules = read_design(component, "top", ports, shared, platform=platform)
    return LaneDesign(generate(top, varying_inputs, modules), backend)
