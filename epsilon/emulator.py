"""The accelerator in torch: the integers of the hardware at the speed of ordinary convolutions.

Every multiplier of the catalogue is a sum of at most five exact products of mapped operands (``Multiplier.terms``), so a layer is
one float32 convolution whose reduction holds the terms one after another. float32 adds integers exactly while no partial sum can
pass 2**24 times the common power of two of all products; that bound is computed from the weights as the multipliers see them,
and where it does not hold the reduction is split, or done in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from epsilon.accelerator import Counters, ScanRecords, StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.idle_rows import idle_sums, padded
from epsilon.multipliers import Multiplier, Term
from epsilon.network import Convolution, QuantizedNetwork, WeightedLayer
from epsilon.signatures import count_records, golden_quartiles
from epsilon.weight_memory import WeightMemory, require_activations

if TYPE_CHECKING:
    from epsilon.faults import FaultMap

__all__ = ["Emulator"]

#: float32 holds every integer up to here; accumulators are int32, so no greater limit is ever of use.
FLOAT32_EXACT = 2**24
MOST = 2**31
#: Elements of unfolded activations held at a time where convolutions are matrix products.
PATCH_ELEMENTS = 2**28


class Emulator:
    """Implements ``Accelerator`` exactly, in torch.

    Parameters
    ----------
    config : ArrayConfig
        The accelerator that is emulated; its size decides where array faults strike and how many cycles a layer takes.
    device : str or torch.device
        Where the products are computed. Results are on the device of the activations.
    """

    def __init__(self, config: ArrayConfig, device: str | torch.device = "cpu") -> None:
        from sim.ledger import CycleLedger  # the cycle model imports this package

        self.config = config
        self.device = torch.device(device)
        self._memory = WeightMemory(config)
        self._derived: dict[str, _Derived] = {}
        self._ledger = CycleLedger(config)

    @property
    def network(self) -> QuantizedNetwork:
        """The network in the weight memory."""
        return self._memory.network

    def load(self, network: QuantizedNetwork) -> None:
        """Write the network's weights into the weight memory, flags clear; faults stay."""
        self._memory.load(network)
        self._derived.clear()
        self._ledger.load(network)

    def set_faults(self, faults: FaultMap | None) -> None:
        """Make these the stuck bits of the weight registers (None: no fault)."""
        self._memory.set_faults(faults)
        self._derived.clear()
        self._ledger.faults_changed()

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return the accumulators of a layer, int32, without bias; see ``Accelerator.run_layer``."""
        derived = self._of(layer)
        require_activations(derived.layer, activations)
        node, inputs = derived.layer, activations.to(self.device)
        if not self.config.multiplier.keeps_zero:
            node, inputs = padded(node, inputs)
        if derived.packed is None:
            derived.packed = _Packed(node, derived.seen, self.config.multiplier, self.device)
        sums = derived.packed.run(inputs).to(activations.device)
        idle = idle_sums(node, self.config, self._memory.faults)
        if idle is not None:
            idle = torch.from_numpy(idle.astype(np.int32)).to(sums.device)
            sums += idle.reshape(1, -1, *(1,) * (sums.dim() - 2))
        self._ledger.run(layer, tuple(activations.shape[1:]), activations.shape[0])
        return sums

    def read_records(self) -> dict[str, ScanRecords]:
        """Return what the signature unit counts of every layer's weights as they are now."""
        self._ledger.scan()
        return {layer.name: self._of(layer.name).records for layer in self.network.weighted}

    def read_weights(self, layer: str) -> np.ndarray:
        """Return the layer's weights as the multipliers see them, int8 (N, K)."""
        seen = self._of(layer).seen.copy()
        self._ledger.read(layer)
        return seen

    def probe(self, layer: str) -> StuckBits:
        """Return the stuck bits under each weight of the layer."""
        shape = self._memory.layer(layer).matrix.shape
        stuck = self._memory.stuck(layer)
        self._ledger.probe(layer, self._memory.stuck_per_weight)
        if stuck is None:
            return StuckBits(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        return StuckBits(stuck.sa0.copy(), stuck.sa1.copy())

    def write_weights(self, layer: str, words: WeightWords) -> None:
        """Replace the layer's words in the weight memory."""
        self._memory.write(layer, words)
        self._derived.pop(layer, None)
        self._ledger.written(layer)

    def counters(self) -> Counters:
        """Return the cycles spent since the last reset."""
        return self._ledger.counters

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        self._ledger.reset()

    def _of(self, name: str) -> _Derived:
        if name not in self._derived:
            layer = self._memory.layer(name)
            self._derived[name] = _Derived(layer, seen_by_multiplier(self._memory.words(name), self._memory.stuck(name)))
        return self._derived[name]


@dataclass(eq=False)
class _Derived:
    """What follows from a layer's words and faults, until either changes."""

    layer: WeightedLayer
    seen: np.ndarray
    packed: _Packed | None = None

    @cached_property
    def records(self) -> ScanRecords:
        return count_records(self.seen, golden_quartiles(self.layer))


class _Packed:
    """The weights of one layer, mapped for every term, ready to be multiplied.

    The reduction is laid out as (group, term, input channel of the group[, kernel]), for activations and weights alike.
    """

    def __init__(self, layer: WeightedLayer, seen: np.ndarray, multiplier: Multiplier, device: torch.device) -> None:
        self.device = device
        self.convolution = layer if isinstance(layer, Convolution) else None
        self.terms = multiplier.terms
        self.maps = [_OperandMap(term, device) for term in self.terms]
        weight = seen.reshape(layer.weight.shape)
        mapped = [term.sign * _weight_map(term)[weight.astype(np.int16) + 128] for term in self.terms]
        weights = np.stack(mapped, axis=1) if mapped else np.zeros((weight.shape[0], 0, *weight.shape[1:]), np.int16)
        #: What one unit of activation can add to any output's sum, per output, term and input channel.
        self.reach = np.abs(weights.astype(np.int64)).reshape(*weights.shape[:3], -1).sum(axis=-1)
        self.limit = min(FLOAT32_EXACT * _common_power_of_two(self.terms), MOST)
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.static = self._plan([mapping.most for mapping in self.maps])

    def run(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the int32 sums of int8 activations (batch, C, H, W) or (batch, K)."""
        groups = self.convolution.groups if self.convolution else 1
        batch, channels, *space = activations.shape
        joined = torch.empty((batch, groups, len(self.maps), channels // groups, *space), device=self.device)
        split = activations.reshape(batch, groups, channels // groups, *space)
        for t, mapping in enumerate(self.maps):
            mapping.into(joined[:, :, t], split)
        plan = self.static
        if len(plan) > 1 and batch:
            largest = joined.abs().amax(dim=(0, 1, *range(3, joined.dim()))).to(torch.int64).tolist()
            plan = self._plan(largest)
        total = None
        with _plain_float32(self.device):
            for part in plan:
                sums = self._multiply(joined, part)
                total = sums if total is None else total + sums
        return total

    def _plan(self, largest: list[int]) -> list[_Part]:
        """Cut the reduction into parts whose sums stay exact for activations up to ``largest`` (per term)."""
        terms, channels = self.reach.shape[1:]
        if not _float32_is_exact(self.device):
            return [_Part(0, channels, torch.float64)]
        # Terms stay together: an input channel's reach is the sum over its terms.
        reach = (self.reach * np.array(largest, dtype=np.int64).reshape(1, terms, 1)).sum(axis=1)
        if not reach.size or int(reach.sum(axis=1).max()) < self.limit:
            return [_Part(0, channels, torch.float32)]
        if int(reach.max()) >= self.limit:
            return [_Part(0, channels, torch.float64)]
        parts, start, sums = [], 0, np.zeros(len(reach), dtype=np.int64)
        for channel in range(channels):
            if int((sums + reach[:, channel]).max()) >= self.limit:
                parts.append(_Part(start, channel, torch.float32))
                start, sums = channel, np.zeros(len(reach), dtype=np.int64)
            sums = sums + reach[:, channel]
        return [*parts, _Part(start, channels, torch.float32)]

    def _multiply(self, joined: torch.Tensor, part: _Part) -> torch.Tensor:
        # (batch, group, term, channel, ...) and (N, term, channel, ...), both cut to the part's channels, terms folded in.
        x = joined[:, :, :, part.start : part.stop].flatten(1, 3).to(part.dtype)
        w = self.weights[:, :, part.start : part.stop].flatten(1, 2).to(part.dtype)
        sums = x @ w.T if self.convolution is None else _convolve(x, w, self.convolution)
        # By way of int64: accumulators wrap as the hardware's do, and a float beyond int32 would not.
        return sums.to(torch.int32) if part.dtype == torch.float32 else sums.to(torch.int64).to(torch.int32)


@dataclass(frozen=True)
class _Part:
    start: int
    stop: int
    dtype: torch.dtype


class _OperandMap:
    """The activation's side of a term: int8 codes to float32 values."""

    def __init__(self, term: Term, device: torch.device) -> None:
        self.mask = None if term.a_mask is None else int(np.uint8(term.a_mask).view(np.int8))
        self.table = None if self.mask is not None else torch.tensor(term.a_map, dtype=torch.float32, device=device)
        self.most = max(abs(value) for value in term.a_map)

    def into(self, target: torch.Tensor, codes: torch.Tensor) -> None:
        if self.mask is not None:
            target.copy_(codes & self.mask if self.mask != -1 else codes)
        else:
            target.copy_(self.table[codes.long() + 128])


@lru_cache(maxsize=128)
def _weight_map(term: Term) -> np.ndarray:
    return np.array(term.b_map, dtype=np.int16)


@lru_cache(maxsize=64)
def _common_power_of_two(terms: tuple[Term, ...]) -> int:
    """Return the greatest power of two that divides every product of every term."""
    found = 2**14
    for term in terms:
        factors = [int(np.bitwise_or.reduce(np.abs(np.array(mapping, dtype=np.int64)))) for mapping in (term.a_map, term.b_map)]
        if all(factors):
            found = min(found, (factors[0] & -factors[0]) * (factors[1] & -factors[1]))
    return found


@contextlib.contextmanager
def _plain_float32(device: torch.device) -> Iterator[None]:
    """Keep torch from rounding float32 products: NNPACK (where oneDNN is off) does, autocast does."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


def _convolve(x: torch.Tensor, w: torch.Tensor, layer: Convolution) -> torch.Tensor:
    """Return the convolution of x (batch, groups * C, H, W) with w (N, C, kh, kw)."""
    if x.device.type == "cpu":
        return functional.conv2d(x, w, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    return _convolve_by_products(x, w, layer)


def _convolve_by_products(x: torch.Tensor, w: torch.Tensor, layer: Convolution) -> torch.Tensor:
    """Return the same by matrix products: libraries of accelerators choose Winograd or FFT for convolutions, which round."""
    batch, (outputs, _, height, width) = len(x), w.shape
    sides = [(x.shape[2 + d] + 2 * layer.padding[d] - w.shape[2 + d]) // layer.stride[d] + 1 for d in range(2)]
    kernels = w.reshape(layer.groups, outputs // layer.groups, -1)
    result = x.new_empty((batch, layer.groups, kernels.shape[1], sides[0] * sides[1]))
    step = max(1, PATCH_ELEMENTS // (layer.groups * kernels.shape[2] * sides[0] * sides[1]))
    for start in range(0, batch, step):
        part = x[start : start + step]
        patches = functional.unfold(part, (height, width), padding=layer.padding, stride=layer.stride)
        torch.matmul(kernels, patches.unflatten(1, (layer.groups, -1)), out=result[start : start + step])
    return result.reshape(batch, outputs, *sides)


@lru_cache(maxsize=8)
def _float32_is_exact(device: torch.device) -> bool:
    """Return whether float32 convolutions and products on this machine give the integers that they must (a self-test)."""
    rng = np.random.default_rng(0)
    for channels, kernel, batch in ((64, 3, 1), (64, 3, 16), (1024, 1, 4), (40, 5, 2)):
        size = kernel + 5
        # As large as the bound allows: up to 1024 products, each up to 2**14, most of them odd.
        x = torch.from_numpy(rng.integers(-128, 128, (batch, channels, size, size))).to(device)
        weight = rng.integers(-128, 128, (8, channels, kernel, kernel))
        weight[0], x[0] = 127, 127
        layer = Convolution(name="", inputs=(), weight=weight, bias=np.zeros(8, np.int32))
        w = torch.from_numpy(weight).to(device)
        patches = functional.unfold(x.double(), kernel).transpose(1, 2)
        wanted = (patches @ w.double().flatten(1).T).transpose(1, 2)
        with _plain_float32(device):
            convolved = _convolve(x.float(), w.float(), layer).flatten(2).double()
            multiplied = (patches.float() @ w.float().flatten(1).T).transpose(1, 2).double()
        if not (torch.equal(convolved, wanted) and torch.equal(multiplied, wanted)):
            return False
    return True
