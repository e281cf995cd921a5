"""Policies that decide what to write into the words of a faulty layer.

A stuck bit stays whatever is written, so every policy is a choice of where the corrected value lives: in what the faulty register
still can hold (``quartile``, ``clip``, ``nearest``), in its complement behind a polarity flag (``invert``), or nowhere (``zero``).
``nearest`` and ``invert`` aim at a target: the golden weight where memory still has it, else an estimate of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from epsilon.accelerator import StuckBits, WeightWords
from epsilon.compensation import compensated
from epsilon.estimation import distinct, expected, most_probable
from epsilon.network import Convolution, Flatten, QuantizedNetwork
from epsilon.signatures import Signature
from epsilon.validation import output_shapes

__all__ = [
    "REPAIRS",
    "Repair",
    "RepairContext",
    "get_repair",
    "golden_totals",
    "golden_weights",
    "input_grid",
    "placed",
    "useful_bits",
]

TARGETS = ("auto", "golden", "expected", "map")


@dataclass(frozen=True, eq=False)
class RepairContext:
    """What is known about a layer that is to be repaired.

    Parameters
    ----------
    words : WeightWords
        The layer's words as last written.
    seen : int8 (N, K)
        Its weights as the multipliers see them, read back.
    signature : Signature
        Of the golden weights.
    totals : int64 (N,)
        Sum of each output's golden codes, bits that no product depends on cleared.
    threshold : float
        T_l (Eq. 3) in codes.
    stuck : StuckBits or None
        Bits found stuck by the probe, those that no product depends on left out; None where the policy needs no probe.
    known : StuckBits or None
        What the probe found before the layer was last repaired, None when it never was.
    golden : int8 (N, K) or None
        The golden weights, where memory still has them.
    used_weight_bits : int
        Mask of the weight bits that can change a product.
    grid : (int, int, int) or None
        Channels, height and width that the K inputs of an output come from; None where they are one to themselves each.
    """

    words: WeightWords
    seen: np.ndarray
    signature: Signature
    totals: np.ndarray
    threshold: float
    stuck: StuckBits | None = None
    known: StuckBits | None = None
    golden: np.ndarray | None = None
    used_weight_bits: int = 0xFF
    grid: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.grid is None:
            object.__setattr__(self, "grid", (self.seen.shape[1], 1, 1))


class Repair(Protocol):
    """A repair policy.

    Members
    -------
    name : str
    needs_probe : bool
        Whether it has to know the stuck bits.
    needs_flags : bool
        Whether it needs the ``invert`` or ``bypass`` flag in the hardware.
    """

    name: str
    needs_probe: bool
    needs_flags: bool

    def repair_layer(self, context: RepairContext) -> WeightWords:
        """Return the words to write; those of weights that are well are as they were."""


class QuartileRepair:
    """Implements Eq. (7) of [Khalil & Hoque]: weights further than T_l from the mean become the nearest of Q1, Q2, Q3.

    They are written through the faulty register, stuck bits and all.
    """

    name = "quartile"
    needs_probe = needs_flags = False

    def repair_layer(self, context: RepairContext) -> WeightWords:
        quartiles = np.array(context.signature.quartiles, dtype=np.int16)
        distance = np.abs(np.arange(-128, 128, dtype=np.int16)[:, None] - quartiles)
        nearest = quartiles[distance.argmin(axis=1)].astype(np.int8)
        return _replace_outliers(context, nearest[context.seen.astype(np.int16) + 128])


class ClipRepair:
    """Weights further than T_l from the mean are clipped to it, written through the faulty register."""

    name = "clip"
    needs_probe = needs_flags = False

    def repair_layer(self, context: RepairContext) -> WeightWords:
        mean, threshold = context.signature.mean, context.threshold
        # Inwards, so that what is written is no outlier itself.
        low, high = max(-128, int(np.ceil(mean - threshold))), min(127, int(np.floor(mean + threshold)))
        return _replace_outliers(context, np.clip(context.seen, low, high).astype(np.int8))


class ZeroRepair:
    """Weights in faulty registers count as zero (fault-aware pruning): their bypass flag is set."""

    name = "zero"
    needs_probe = needs_flags = True

    def repair_layer(self, context: RepairContext) -> WeightWords:
        faulty = (context.stuck.sa0 | context.stuck.sa1) != 0
        return replace(context.words, bypass=context.words.bypass | faulty)


class NearestRepair:
    """The nearest to the target that the stuck bits allow; for the error that is left, other weights of the same output make up.

    Parameters
    ----------
    target : str
        ``golden`` (memory still has the weights); among the codes that agree with the bits that are not stuck, ``map`` (the most
        probable one under the golden histogram) or ``expected`` (their mean under it, and under the golden sum of the output's
        codes); ``auto`` (``golden`` where it is known, else ``expected``).
    compensate : bool
        Whether other weights make up for the error (``epsilon.compensation``); without, each weight is nearest by itself.
    """

    name = "nearest"
    needs_probe, needs_flags = True, False
    _invert = False

    def __init__(self, target: str = "auto", compensate: bool = True) -> None:
        if target not in TARGETS:
            raise ValueError(f"The target of the repair must be one of {', '.join(TARGETS)}, not {target!r}")
        self.target = target
        self.compensate = compensate

    def repair_layer(self, context: RepairContext) -> WeightWords:
        if self.target == "golden" and context.golden is None:
            raise ValueError(f"The repair {self.name} aims at the golden weights, but memory no longer has them")
        if self.target in ("auto", "golden") and context.golden is not None:
            aim, old = context.golden, WeightWords.plain(context.golden)
        else:
            # What was written around a stuck bit is no longer what was read there first: only newly stuck bits are a riddle.
            fresh = _stuck(context.stuck) if context.known is None else _stuck(context.stuck) & ~_stuck(context.known)
            if not fresh.any():
                return context.words
            aim, old = self._estimate(context, fresh), context.words
        used, grid = context.used_weight_bits, context.grid if self.compensate else None
        code, invert = placed(aim, context.stuck, invert=self._invert, used=used, grid=grid)
        ignored = old.code & ~np.uint8(used).view(np.int8)
        return WeightWords(np.where(old.bypass, old.code, code | ignored), np.where(old.bypass, old.invert, invert), old.bypass)

    def _estimate(self, context: RepairContext, uncertain: np.ndarray) -> np.ndarray:
        if self.target == "map":
            return most_probable(context.seen, uncertain, context.signature.histogram)
        return expected(context.seen, uncertain, context.signature.histogram, context.totals, context.used_weight_bits)


class InvertRepair(NearestRepair):
    """The target or its complement, whichever the stuck bits allow: exact for any single stuck bit.

    Where several bits are stuck and neither fits, the nearest of both kinds. Parameters as for ``NearestRepair``.
    """

    name = "invert"
    needs_probe = needs_flags = True
    _invert = True


REPAIRS = {kind.name: kind for kind in (QuartileRepair, ZeroRepair, NearestRepair, ClipRepair, InvertRepair)}


def get_repair(name: str | Repair, **options: str | bool) -> Repair:
    """Return the repair policy of that name; ``nearest`` and ``invert`` take options, see ``NearestRepair``.

    Raises
    ------
    ValueError
        When there is none, or it does not take the option.
    """
    if not isinstance(name, str):
        return name
    if name not in REPAIRS:
        raise ValueError(f"The repair must be one of {', '.join(REPAIRS)}, not {name!r}")
    if options and not issubclass(REPAIRS[name], NearestRepair):
        raise ValueError(f"The repair {name} takes no option, but was given {', '.join(options)}")
    return REPAIRS[name](**options)


def golden_weights(network: QuantizedNetwork) -> dict[str, np.ndarray]:
    """Return the golden weights of every layer: what memory still has when only PEs are faulty."""
    return {layer.name: layer.matrix for layer in network.weighted}


def input_grid(network: QuantizedNetwork, name: str) -> tuple[int, int, int]:
    """Return the channels, height and width that the inputs of one output of a weighted layer come from."""
    layer = network[name]
    if isinstance(layer, Convolution):
        return layer.weight.shape[1:]
    source = next((before for before in network if before.name in layer.inputs), None)
    if isinstance(source, Flatten):
        return output_shapes(network)[source.inputs[0]]
    return layer.weight.shape[1], 1, 1


def golden_totals(codes: np.ndarray, used_weight_bits: int) -> np.ndarray:
    """Return what is kept of golden codes, int8 (N, K), for estimates: the sum of each output, ignored bits cleared, int64 (N,)."""
    return (codes & np.uint8(used_weight_bits).view(np.int8)).sum(axis=1, dtype=np.int64)


def useful_bits(stuck: StuckBits, used_weight_bits: int) -> StuckBits:
    """Return the stuck bits without those that the multiplier ignores."""
    used = np.uint8(used_weight_bits)
    return StuckBits(stuck.sa0 & used, stuck.sa1 & used)


def placed(
    target: np.ndarray,
    stuck: StuckBits,
    *,
    invert: bool,
    used: int = 0xFF,
    grid: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the code to write and the invert flag that bring each weight nearest to its target, int8 and bool (N, K).

    Parameters
    ----------
    target : int8 (N, K)
    stuck : StuckBits
        None of them outside ``used``.
    invert : bool
        Whether the flag may be set; equally near, it is not.
    used : int
        Mask of the weight bits that can change a product; the others are ignored, and 0 in the codes returned.
    grid : (int, int, int), optional
        With it, weights make up for each other's errors; see ``epsilon.compensation.compensated``.
    """
    pairs, which = distinct(stuck.sa0.astype(np.uint16) << 8 | stuck.sa1)
    values, codes, flags = (
        np.stack(rows) for rows in zip(*(_placement(int(p) >> 8, int(p) & 0xFF, invert, used) for p in pairs), strict=True)
    )
    wanted = (target & np.uint8(used).view(np.int8)).astype(np.int64)
    if grid is not None:
        wanted = compensated(wanted, values, which, grid)
    return codes[which, wanted + 128], flags[which, wanted + 128]


@lru_cache(maxsize=8192)
def _placement(sa0: int, sa1: int, invert: bool, used: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for every target the nearest value that a register can give, the code that gives it, int8 (256,), and its flag."""
    patterns = np.arange(256, dtype=np.uint8)
    patterns = patterns[(patterns & ~np.uint8(used)) == 0]
    held = patterns[((patterns & ~np.uint8(sa0)) | np.uint8(sa1)) == patterns]
    # Behind the flag the multiplier sees the complement. The plain code comes first, so it is taken where both give a value.
    given = np.concatenate([held, ~held & np.uint8(used)]) if invert else held
    values, first = np.unique(given.view(np.int8), return_index=True)
    best = first[_nearest(values.astype(np.int64), np.arange(-128, 128))]
    return given[best].view(np.int8), held[best % len(held)].view(np.int8), best >= len(held)


def _nearest(choices: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each target the index of the nearest of the sorted choices; of two, the one with the smaller magnitude."""
    after = np.searchsorted(choices, targets).clip(max=len(choices) - 1)
    before = np.maximum(after - 1, 0)
    gap_after, gap_before = np.abs(choices[after] - targets), np.abs(choices[before] - targets)
    smaller = np.abs(choices[before]) < np.abs(choices[after])
    return np.where((gap_before < gap_after) | ((gap_before == gap_after) & smaller), before, after)


def _stuck(bits: StuckBits) -> np.ndarray:
    return bits.sa0 | bits.sa1


def _replace_outliers(context: RepairContext, code: np.ndarray) -> WeightWords:
    far = np.abs(context.seen - context.signature.mean) > context.threshold
    # What lies behind a flag is left to the policy that set it.
    far &= ~(context.words.bypass | context.words.invert)
    return replace(context.words, code=np.where(far, code, context.words.code))
