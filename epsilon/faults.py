"""Permanent stuck-at faults of the weight registers: where they are, how they are sampled, how they are saved.

Implements the fault model of section IV-A of [Khalil & Hoque]: FR (Eq. 10) is a fraction of registers with one stuck bit each, at
random places. Two sites, which a map may hold together:

- ``storage``: every stored weight of a layer has its own register, and its stuck bits follow it (the paper's model);
- ``array``: the weight register of a physical PE is stuck, for every tile of every layer that passes through it.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from epsilon.accelerator import StuckBits
from epsilon.config import ArrayConfig
from epsilon.files import write_atomically
from epsilon.network import QuantizedNetwork, WeightedLayer

__all__ = ["BITS", "SITES", "FaultMap", "FaultMapError", "Registers", "pes_of_weights"]

SITES = ("storage", "array")
#: How the position of a stuck bit is drawn: all alike, or bit b with a probability proportional to 2**-b.
BITS = ("uniform", "lsb-weighted")
POLARITIES = (0, 1, "both")
FORMAT = "epsilon-fault-map"
VERSION = 1
#: Most output channels, or weights of one, that a layer can have.
MAX_SIDE = 2**24


class FaultMapError(ValueError):
    """A fault map that cannot be made, read or used here."""


@dataclass(frozen=True, eq=False)
class Registers:
    """The stuck bits of a grid of 8-bit registers, sorted by register, then bit.

    Parameters
    ----------
    shape : (int, int)
        The grid: (N, K) weights of a layer, or (rows, cols) PEs.
    index : int64 (faults,)
        Flat index of the register.
    bit : uint8 (faults,)
        Stuck bit, 0 (least significant) to 7.
    stuck_at : uint8 (faults,)
        The value that it is stuck at, 0 or 1.
    """

    shape: tuple[int, int]
    index: np.ndarray
    bit: np.ndarray
    stuck_at: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(sa0, sa1)``, uint8 of the grid's shape, a set bit is stuck."""
        found = []
        for value in (0, 1):
            here = self.stuck_at == value
            mask = np.zeros(self.shape[0] * self.shape[1], dtype=np.uint8)
            np.bitwise_or.at(mask, self.index[here], np.left_shift(np.uint8(1), self.bit[here]))
            found.append(mask.reshape(self.shape))
        return found[0], found[1]

    @classmethod
    def from_masks(cls, sa0: np.ndarray, sa1: np.ndarray) -> Registers:
        """Return the stuck bits of two masks; a bit set in both is stuck at 1, as in ``seen_by_multiplier``."""
        stuck = ((sa0 | sa1).reshape(-1, 1) >> np.arange(8, dtype=np.uint8)) & 1
        index, bit = np.nonzero(stuck)
        value = (sa1.reshape(-1)[index] >> bit.astype(np.uint8)) & 1
        return cls(sa0.shape, index.astype(np.int64), bit.astype(np.uint8), value.astype(np.uint8))

    def describe(self) -> dict:
        """Return plain JSON values."""
        return {
            "shape": list(self.shape),
            "index": self.index.tolist(),
            "bit": self.bit.tolist(),
            "stuck_at": self.stuck_at.tolist(),
        }

    @classmethod
    def parse(cls, where: str, values: object) -> Registers:
        """Return what ``describe`` gave, or raise FaultMapError saying what of ``where`` is wrong."""
        if not isinstance(values, dict) or set(values) != {"shape", "index", "bit", "stuck_at"}:
            raise FaultMapError(f"The faults of {where} need exactly shape, index, bit and stuck_at")
        shape = values["shape"]
        if not (_are_integers(shape) and len(shape) == 2 and min(shape) >= 1 and max(shape) <= MAX_SIDE):
            raise FaultMapError(f"The shape of {where} must be two integers from 1 to {MAX_SIDE}, not {shape!r}")
        columns = {}
        for name, high in (("index", shape[0] * shape[1] - 1), ("bit", 7), ("stuck_at", 1)):
            column = values[name]
            if not _are_integers(column) or len(column) != len(values["index"]):
                raise FaultMapError(f"The {name} of {where} must be a list of integers, as long as the list of places")
            if column and not (min(column) >= 0 and max(column) <= high):
                raise FaultMapError(f"The {name} of {where} must lie from 0 to {high}")
            columns[name] = np.array(column, dtype=np.int64)
        place = columns["index"] * 8 + columns["bit"]
        if np.any(np.diff(place) <= 0):
            raise FaultMapError(f"The faults of {where} must be distinct and sorted by place and bit")
        return cls((shape[0], shape[1]), columns["index"], columns["bit"].astype(np.uint8), columns["stuck_at"].astype(np.uint8))


@dataclass(frozen=True, eq=False)
class FaultMap:
    """Every stuck bit of one faulty accelerator.

    Parameters
    ----------
    storage : dict of str to Registers
        The stuck bits under the weights of each faulty layer.
    array : Registers or None
        The stuck bits of the PEs.
    recipe : list of dict
        How the map was sampled, plain JSON; for the record only, no part of ``digest``.
    """

    storage: Mapping[str, Registers] = field(default_factory=dict)
    array: Registers | None = None
    recipe: tuple[dict, ...] = ()

    @classmethod
    def empty(cls) -> FaultMap:
        """Return the map of a healthy accelerator."""
        return cls()

    @classmethod
    def sample(
        cls,
        network: QuantizedNetwork,
        config: ArrayConfig,
        *,
        site: str = "storage",
        rate: float,
        polarity: int | str = 1,
        bits: str = "uniform",
        bit: int | None = None,
        seed: int,
        layers: Iterable[str] | None = None,
    ) -> FaultMap:
        """Draw a random fault map.

        The same seed at a higher rate gives a superset of the faults, and a layer's faults do not depend on which other layers
        are faulty.

        Parameters
        ----------
        network : QuantizedNetwork
        config : ArrayConfig
            The array, for its size.
        site : str
            ``storage`` or ``array``.
        rate : float
            Fraction of each layer's weights (storage) or of the PEs (array) with one stuck bit: exactly ``round(rate * total)``.
        polarity : 0, 1 or "both"
            What the bits are stuck at; ``both`` draws 0 or 1 for each.
        bits : str
            ``uniform`` or ``lsb-weighted`` (bit b with a probability proportional to 2**-b).
        bit : int, optional
            0..7: the stuck bit of every faulty register, instead of a drawn one. The same registers are faulty for every bit.
        seed : int
            At least 0.
        layers : iterable of str or None
            Site storage: names of the faulty layers, None for all that have weights.

        Raises
        ------
        FaultMapError
            For a value outside these.
        """
        _require_sampling(site, rate, polarity, bits, bit, seed)
        position = {"bits": bits} if bit is None else {"bit": bit}
        recipe = {"site": site, "rate": float(rate), "polarity": polarity, **position, "seed": seed}

        def draw(shape: tuple[int, int], stream: str) -> Registers:
            rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(stream.encode())]))
            drawn = _draw(rng, shape, rate, polarity, bits)
            return drawn if bit is None else replace(drawn, bit=np.full_like(drawn.bit, bit))

        if site == "array":
            if layers is not None:
                raise FaultMapError("The faults of the array are under every layer, so they cannot be limited to some layers")
            drawn = draw((config.rows, config.cols), "array")
            return cls(array=drawn if len(drawn) else None, recipe=(recipe,))
        shapes = {layer.name: layer.matrix.shape for layer in network.weighted}
        chosen = list(shapes) if layers is None else list(layers)
        _require_layers(chosen, shapes)
        storage = {name: draw(shapes[name], f"storage/{name}") for name in shapes if name in set(chosen)}
        storage = {name: registers for name, registers in storage.items() if len(registers)}
        return cls(storage=storage, recipe=({**recipe, "layers": None if layers is None else sorted(set(chosen))},))

    @property
    def has_storage(self) -> bool:
        """Whether any stored weight has its own stuck bits."""
        return bool(self.storage)

    @property
    def has_array(self) -> bool:
        """Whether any PE has stuck bits."""
        return self.array is not None

    def __len__(self) -> int:
        return sum(map(len, self.storage.values())) + (len(self.array) if self.array is not None else 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultMap) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __or__(self, other: FaultMap) -> FaultMap:
        """Return the faults of both maps; a bit stuck at 0 in one and at 1 in the other is stuck at 1."""
        storage = dict(self.storage)
        for name, registers in other.storage.items():
            storage[name] = _union(f"layer {name}", storage.get(name), registers)
        array = self.array if other.array is None else _union("the array", self.array, other.array)
        return FaultMap(storage, array, (*self.recipe, *other.recipe))

    def array_masks(self, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the PEs' stuck bits ``(sa0, sa1)``, uint8 (rows, cols).

        Raises
        ------
        FaultMapError
            When the map was made for an array of another size.
        """
        if self.array is None:
            return np.zeros((rows, cols), np.uint8), np.zeros((rows, cols), np.uint8)
        if self.array.shape != (rows, cols):
            made = "x".join(map(str, self.array.shape))
            raise FaultMapError(f"The fault map is for an array of {made} PEs, not of {rows}x{cols}")
        return self.array.masks()

    def stuck_bits(self, layer: WeightedLayer, config: ArrayConfig) -> StuckBits | None:
        """Return the stuck bits under each weight of a layer from both sites, uint8 (N, K); None where there are none.

        Raises
        ------
        FaultMapError
            When the map was made for another array or another shape of the layer.
        """
        shape = layer.matrix.shape
        own = self.storage.get(layer.name)
        if own is None and self.array is None:
            return None
        sa0, sa1 = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        if own is not None:
            if own.shape != shape:
                raise FaultMapError(f"The fault map has {_by(own.shape)} weights in layer {layer.name}, the network {_by(shape)}")
            sa0, sa1 = own.masks()
        if self.array is not None:
            pe = pes_of_weights(layer, config)
            pe0, pe1 = self.array_masks(config.rows, config.cols)
            sa0, sa1 = sa0 | pe0[pe], sa1 | pe1[pe]
        return StuckBits(sa0 & ~sa1, sa1)

    def require_fit(self, network: QuantizedNetwork, config: ArrayConfig) -> None:
        """Raise FaultMapError where the map is not one of this network on this array."""
        shapes = {layer.name: layer.matrix.shape for layer in network.weighted}
        _require_layers(self.storage, shapes)
        for layer in network.weighted:
            if layer.name in self.storage and self.storage[layer.name].shape != layer.matrix.shape:
                self.stuck_bits(layer, config)
        self.array_masks(config.rows, config.cols)

    def _content(self) -> dict:
        storage = {name: self.storage[name].describe() for name in sorted(self.storage)}
        return {"storage": storage, "array": None if self.array is None else self.array.describe()}

    @property
    def digest(self) -> str:
        """Hash of all stuck bits (16 hexadecimal digits)."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike) -> None:
        """Write the map as JSON; the file appears whole or not at all."""
        values = {"format": FORMAT, "version": VERSION, "digest": self.digest, "recipe": list(self.recipe), **self._content()}
        try:
            write_atomically(path, json.dumps(values))
        except OSError as error:
            raise FaultMapError(f"The fault map cannot be written to {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> FaultMap:
        """Read a map that ``save`` wrote.

        Raises
        ------
        FaultMapError
            When the file is missing, cut short, changed or something else.
        """
        try:
            values = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise FaultMapError(f"The fault map {path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise FaultMapError(f"{path} is not a fault map: it is no JSON") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise FaultMapError(f"{path} is not a fault map: its format is not {FORMAT}")
        if values.get("version") != VERSION:
            raise FaultMapError(f"The fault map {path} has version {values.get('version')!r}, this program reads {VERSION}")
        storage, array, recipe = values.get("storage"), values.get("array"), values.get("recipe")
        if not isinstance(storage, dict) or not isinstance(recipe, list) or not all(isinstance(r, dict) for r in recipe):
            raise FaultMapError(f"The fault map {path} lacks its faults or its recipe")
        found = cls(
            {name: Registers.parse(f"layer {name}", registers) for name, registers in storage.items()},
            None if array is None else Registers.parse("the array", array),
            tuple(recipe),
        )
        if found.digest != values.get("digest"):
            raise FaultMapError(f"The fault map {path} was changed or damaged: its digest does not match its faults")
        return found


def pes_of_weights(layer: WeightedLayer, config: ArrayConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the row (1, K) and the column (N, 1) of the PE that each weight of a layer passes through.

    Weight [n, k] is in row ``k % rows`` and column ``(n within its group) % cols``, as the tiles of ``sim.tiling`` lie.
    """
    outputs, reduction = layer.matrix.shape
    row = np.arange(reduction) % config.rows
    col = np.arange(outputs) % (outputs // getattr(layer, "groups", 1)) % config.cols
    return row[None], col[:, None]


def _draw(rng: np.random.Generator, shape: tuple[int, int], rate: float, polarity: int | str, bits: str) -> Registers:
    total = shape[0] * shape[1]
    weight = np.ones(8) if bits == "uniform" else 0.5 ** np.arange(8)
    # Everything is drawn for all registers whatever the rate, so that maps of one seed are nested.
    order = rng.permutation(total)
    bit = rng.choice(8, size=total, p=weight / weight.sum()).astype(np.uint8)
    drawn = rng.integers(0, 2, size=total, dtype=np.uint8)
    index = np.sort(order[: round(rate * total)])
    stuck_at = drawn[index] if polarity == "both" else np.full(len(index), polarity, dtype=np.uint8)
    return Registers(shape, index, bit[index], stuck_at)


def _union(where: str, one: Registers | None, two: Registers) -> Registers:
    if one is None:
        return two
    if one.shape != two.shape:
        raise FaultMapError(f"Two fault maps have {_by(one.shape)} and {_by(two.shape)} registers in {where}")
    (zeros, ones), (more_zeros, more_ones) = one.masks(), two.masks()
    return Registers.from_masks(zeros | more_zeros, ones | more_ones)


def _require_sampling(site: str, rate: float, polarity: int | str, bits: str, bit: int | None, seed: int) -> None:
    if site not in SITES:
        raise FaultMapError(f"The site of faults must be one of {', '.join(SITES)}, not {site!r}")
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or not 0 <= rate <= 1:
        raise FaultMapError(f"The fault rate must be a number from 0 to 1, not {rate!r}")
    if isinstance(polarity, bool) or polarity not in POLARITIES:
        raise FaultMapError(f"The polarity of stuck bits must be 0, 1 or 'both', not {polarity!r}")
    if bits not in BITS:
        raise FaultMapError(f"The bit positions must be one of {', '.join(BITS)}, not {bits!r}")
    if bit is not None and (isinstance(bit, bool) or not isinstance(bit, (int, np.integer)) or not 0 <= bit <= 7):
        raise FaultMapError(f"The stuck bit must be an integer from 0 to 7, not {bit!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise FaultMapError(f"The seed must be an integer of at least 0, not {seed!r}")


def _require_layers(chosen: Iterable[str], known: Mapping[str, tuple[int, int]]) -> None:
    for name in chosen:
        if name not in known:
            raise FaultMapError(f"The network has no weighted layer {name!r}; it has {', '.join(known)}")


def _are_integers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
