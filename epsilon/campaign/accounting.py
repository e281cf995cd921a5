"""What a fault map does to the weights, and what a repair left of that: the columns of a row that are about bits and words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epsilon.accelerator import WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.detector import PatternDetector
from epsilon.emulator import Emulator
from epsilon.faults import FaultMap, Registers, pes_of_weights
from epsilon.importance import LayerImportance
from epsilon.network import QuantizedNetwork
from epsilon.signatures import count_records, golden_quartiles, golden_records

__all__ = ["FaultFacts", "WordFacts", "fault_facts", "pattern_scores", "word_facts"]


@dataclass(frozen=True)
class FaultFacts:
    """A fault map under golden weights.

    Parameters
    ----------
    faults : int
        Stuck bits.
    masked_multiplier : int
        Those that no product depends on.
    masked_value : int
        Others that every golden weight in their register has already.
    wrong : dict of str to int
        Weights with a useful bit that is not the golden one, for every layer with stuck bits.
    scores : dict of str to float
        Pattern score (Eq. 6) of every layer whose records change.
    """

    faults: int
    masked_multiplier: int
    masked_value: int
    wrong: dict[str, int]
    scores: dict[str, float]


def fault_facts(faults: FaultMap, network: QuantizedNetwork, config: ArrayConfig) -> FaultFacts:
    """Return what a fault map does to a network's golden weights."""
    used = np.uint8(config.multiplier.used_weight_bits)
    wrong, scores, masked = {}, {}, 0
    changed_in_pe = np.zeros((config.rows, config.cols), np.uint8)
    for layer in network.weighted:
        stuck = faults.stuck_bits(layer, config)
        if stuck is None:
            continue
        golden = layer.matrix
        seen = seen_by_multiplier(WeightWords.plain(golden), stuck)
        changed = (seen ^ golden).view(np.uint8)
        wrong[layer.name] = int(np.count_nonzero(changed & used))
        if changed.any():
            records = count_records(seen, golden_quartiles(layer))
            scores[layer.name] = PatternDetector().score(golden_records(layer), records)
        own = faults.storage.get(layer.name)
        if own is not None:
            masked += _masked(own, changed, used)
        if faults.has_array:
            rows, cols = np.broadcast_arrays(*pes_of_weights(layer, config))
            np.bitwise_or.at(changed_in_pe, (rows, cols), changed)
    if faults.has_array:
        masked += _masked(faults.array, changed_in_pe, used)
    bits = [registers.bit for registers in (*faults.storage.values(), faults.array) if registers is not None]
    ignored = sum(int(np.count_nonzero(~(used >> bit) & 1)) for bit in bits)
    return FaultFacts(len(faults), ignored, masked, wrong, scores)


def _masked(registers: Registers, changed: np.ndarray, used: np.uint8) -> int:
    """Return how many useful stuck bits change nothing, given the bits that are changed in each register."""
    useful = (used >> registers.bit) & 1
    changes = (changed.reshape(-1)[registers.index] >> registers.bit) & 1
    return int(np.count_nonzero(useful & ~changes))


def pattern_scores(facts: FaultFacts, importances: dict[str, LayerImportance]) -> list[list]:
    """Return ``[name, whether faulty (0, 1), pattern score, T_l]`` of every layer, under the map and before any repair."""
    return [
        [name, int(facts.wrong.get(name, 0) > 0), facts.scores.get(name, 0.0), importance.threshold]
        for name, importance in importances.items()
    ]


@dataclass(frozen=True)
class WordFacts:
    """The weight memory after a stream: ``wrong`` weights, in useful bits, and rewritten words that read back ``exact``."""

    wrong: int
    exact: int


def word_facts(emulator: Emulator) -> WordFacts:
    """Return what an emulator's weights are like now, compared with the golden ones."""
    used = np.uint8(emulator.config.multiplier.used_weight_bits)
    wrong = exact = 0
    for layer in emulator.network.weighted:
        words, golden = emulator.words(layer.name), layer.matrix
        right = ((emulator.seen(layer.name) ^ golden).view(np.uint8) & used) == 0
        rewritten = (words.code != golden) | words.invert | words.bypass
        wrong += int(np.count_nonzero(~right))
        exact += int(np.count_nonzero(rewritten & right))
    return WordFacts(wrong, exact)
