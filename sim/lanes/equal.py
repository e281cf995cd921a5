"""Nets that always have the same value, made one before anything is generated: above all the sign bits of partial sums.

A partial sum of 32 bits holds a sum of few products: its upper bits repeat the sign, and to compute and keep them in every lane would
be most of the work of the adders. What is equal follows from words that repeat their sign, from the range of sums, and from registers
that take the same. It is followed through every instance of a shared module; what is true of all of them simplifies the module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["REGISTERS", "merge_equal"]

REGISTERS = {"$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"}
#: What the reader takes for undefined and for undriven bits.
CONSTANTS = {"0": "0", "1": "1", "x": "0", "z": "0"}

Bit = int | str
Range = tuple[int, int]


def merge_equal(module: dict, shared: dict[str, dict]) -> tuple[dict, dict[str, dict]]:
    """Return a module in which nets that are always equal are one, and likewise the modules that its instances are of.

    Parameters
    ----------
    module : dict
        Flat, in the form of Yosys' JSON; so are the shared ones, which have no instances.
    shared : dict
        The modules that its instances are of, by name.
    """
    found = _Equal(module, shared)
    found.search()
    inside = {}
    for kind in shared:
        instances = {label for label, cell in module["cells"].items() if cell["type"] == kind}
        known = [found.seen[label] for label in instances if label in found.seen]
        if known and len(known) == len(instances):
            inside[kind] = _Inside(shared[kind], *_common(known))
    modules = shared | {kind: part.equal.module(part.kept) for kind, part in inside.items()}
    return found.module(inside=inside), modules


#: What leads to an instance: for each bit of each port a constant, or the number of its net; and the ranges of the ports.
Seen = tuple[dict[str, tuple], dict[str, Range]]


def _common(known: list[Seen]) -> Seen:
    """Return what is true of all of these instances."""
    numbers: dict[tuple, int] = {}
    patterns, ranges = {}, {}
    for port in known[0][0]:
        columns = zip(*(pattern[port] for pattern, _ in known), strict=True)
        patterns[port] = tuple(
            marks[0] if isinstance(marks[0], str) and len({*marks}) == 1 else numbers.setdefault(marks, len(numbers)) for marks in columns
        )
        lows, highs = zip(*(ranges[port] for _, ranges in known), strict=True)
        ranges[port] = min(lows), max(highs)
    return patterns, ranges


class _Inside:
    """A shared module under what is known of its inputs.

    Members
    -------
    equal : its own search, done.
    kept : for each port the indices of the bits that it still has.
    outputs : for each bit of each output the one that it is equal to, or the constant that it is.
    ranges : of the outputs.
    """

    def __init__(self, module: dict, pattern: dict[str, tuple], ranges: dict[str, Range]) -> None:
        self.equal = found = _Equal(module, {})
        first: dict[int, Bit] = {}
        self.kept: dict[str, list[int]] = {}
        for port, numbers in pattern.items():
            bits = module["ports"][port]["bits"]
            for bit, number in zip(bits, numbers, strict=True):
                found.unite(bit, number if isinstance(number, str) else first.setdefault(number, bit))
            self.kept[port] = [k for k, bit in enumerate(bits) if bit not in found.same]
        for port, known in ranges.items():
            found.note_range(module["ports"][port]["bits"], known)
        found.search()
        self.outputs: dict[str, list[tuple[str, int] | str]] = {}
        leaders: dict[Bit, tuple[str, int]] = {}
        for port, facts in module["ports"].items():
            if facts["direction"] != "input":
                roots = [found.find(bit) for bit in facts["bits"]]
                marks = [root if root in CONSTANTS else leaders.setdefault(root, (port, k)) for k, root in enumerate(roots)]
                self.outputs[port], self.kept[port] = marks, [k for k, mark in enumerate(marks) if mark == (port, k)]
        self.ranges = {port: found.range_of(module["ports"][port]["bits"]) for port in self.outputs}


@dataclass(eq=False)
class _Equal:
    """The search in one module: ``same`` leads from nets to others of the same value, or to constants."""

    source: dict
    shared: dict[str, dict]
    same: dict[Bit, Bit] = field(default_factory=dict)
    #: What leads to each instance.
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._init = {}
        for net in self.source["netnames"].values():
            value = net["attributes"].get("init", "")[::-1]
            self._init.update((bit, digit) for bit, digit in zip(net["bits"], value, strict=False) if digit == "1")
        #: Words whose range is known, by their first bit.
        self._ranges: dict[Bit, list[tuple[list[Bit], Range]]] = {}
        self._readers: dict[Bit, list[str]] = {}
        self._waiting: deque[str] = deque()
        self._queued: set[str] = set()
        self._driven: set[Bit] = set()
        self._known: dict[tuple, _Inside] = {}
        for label, cell in self.source["cells"].items():
            if cell["type"] in REGISTERS or cell["type"] == "$add" or self._is_whole(cell):
                for bit in self._read(cell):
                    self._readers.setdefault(bit, []).append(label)
                self._wake([label])

    def _is_instance(self, cell: dict) -> bool:
        return cell["type"] in self.shared

    def _is_whole(self, cell: dict) -> bool:
        """Whether it is an instance with all its ports."""
        return self._is_instance(cell) and cell["connections"].keys() >= self.shared[cell["type"]]["ports"].keys()

    def _inputs(self, cell: dict) -> dict[str, list[Bit]]:
        """Return the words that lead to an instance, in the order of the ports."""
        ports = self.shared[cell["type"]]["ports"]
        return {port: cell["connections"][port] for port, facts in ports.items() if facts["direction"] == "input"}

    def _read(self, cell: dict) -> set[Bit]:
        words = self._inputs(cell) if self._is_instance(cell) else {port: cell["connections"].get(port, []) for port in ("A", "B", "D")}
        return {bit for bits in words.values() for bit in bits if bit not in CONSTANTS}

    def _wake(self, labels: Iterable[str]) -> None:
        for label in labels:
            if label not in self._queued:
                self._queued.add(label)
                self._waiting.append(label)

    def find(self, bit: Bit) -> Bit:
        """Return what stands for a net."""
        while bit in self.same:
            bit = self.same[bit]
        return CONSTANTS.get(bit, bit)

    def unite(self, bit: Bit, other: Bit) -> None:
        """Note that a net has always the value of another net, which then stands for it, or is constant."""
        bit, other = self.find(bit), self.find(other)
        if bit != other and bit not in CONSTANTS:
            self.same[bit] = other
            readers = self._readers.pop(bit, [])
            self._readers.setdefault(other, []).extend(readers)
            self._wake(readers)

    def _stripped(self, bits: list[Bit]) -> list[Bit]:
        """Return what stands for the nets of a signed word, without repetitions of the sign."""
        word = [self.find(bit) for bit in bits]
        while len(word) > 1 and word[-1] == word[-2]:
            word.pop()
        return word

    def note_range(self, bits: list[Bit], known: Range) -> None:
        """Note what is known of a word as a signed number, and that its upper bits repeat the sign then."""
        before = self.range_of(bits)
        low, high = max(before[0], known[0]), min(before[1], known[1])
        if (low, high) != before:
            width = max((~low if low < 0 else low).bit_length(), (~high if high < 0 else high).bit_length()) + 1
            self._ranges.setdefault(bits[0], []).append((bits, (low, high)))
            for bit in bits[width:]:
                self.unite(bit, bits[width - 1])
            self._wake(self._readers.get(self.find(bits[0]), []))

    def range_of(self, bits: list[Bit]) -> Range:
        """Return the least and the most that a word is as a signed number."""
        word = self._stripped(bits)
        low, high = -(1 << len(word) - 1), (1 << len(word) - 1) - 1
        if all(bit in CONSTANTS for bit in word):
            low = high = sum(1 << k for k, bit in enumerate(word[:-1]) if bit == "1") + (low if word[-1] == "1" else 0)
        for known_bits, known in self._ranges.get(bits[0], []):
            if self._stripped(known_bits) == word:
                low, high = max(low, known[0]), min(high, known[1])
        return low, high

    def search(self) -> None:
        """Follow what is known through registers, adders and instances until nothing new turns up."""
        while self._waiting:
            label = self._waiting.popleft()
            self._queued.remove(label)
            cell = self.source["cells"][label]
            if self._is_instance(cell):
                self._through_instance(label, cell)
            elif cell["type"] == "$add":
                self._through_adder(cell)
            else:
                self._through_register(cell)

    def _through_register(self, cell: dict) -> None:
        q, d = cell["connections"]["Q"], cell["connections"]["D"]
        resets = self._reset_values(cell)
        low, high = self.range_of(d)
        first: dict[tuple, Bit] = {}
        for place, bit in enumerate(q):
            key = self.find(d[place]), self._init.get(bit), resets[place]
            self.unite(bit, first.setdefault(key, bit))
        others = [self._number([self._init.get(bit, "0") for bit in q])] + ([self._number(resets)] if "SRST" in cell["connections"] else [])
        self.note_range(q, (min(low, *others), max(high, *others)))

    @staticmethod
    def _number(digits: list[str]) -> int:
        return int("".join(digits[::-1]), 2) - (1 << len(digits) if digits[-1] == "1" else 0)

    @staticmethod
    def _reset_values(cell: dict) -> list[str]:
        digits = cell["parameters"].get("SRST_VALUE", "")[::-1]
        return [CONSTANTS[digit] for digit in digits] or ["0"] * len(cell["connections"]["Q"])

    def _through_adder(self, cell: dict) -> None:
        a, b, y = (cell["connections"][port] for port in "ABY")
        signed = all(int(cell["parameters"][name], 2) for name in ("A_SIGNED", "B_SIGNED"))
        if signed or len(a) == len(b) == len(y):
            low, high = map(sum, zip(self.range_of(a), self.range_of(b), strict=True))
            if -(1 << len(y) - 1) <= low and high < 1 << len(y) - 1:
                self.note_range(y, (low, high))

    def _through_instance(self, label: str, cell: dict) -> None:
        words = self._inputs(cell)
        numbers: dict[Bit, int] = {}
        pattern, ranges = {}, {}
        for port, bits in words.items():
            roots = [self.find(bit) for bit in bits]
            pattern[port] = tuple(root if root in CONSTANTS else numbers.setdefault(root, len(numbers)) for root in roots)
            ranges[port] = self.range_of(bits)
        self.seen[label] = pattern, ranges
        key = cell["type"], *pattern.values(), *ranges.values()
        if key not in self._known:
            self._known[key] = _Inside(self.shared[cell["type"]], pattern, ranges)
        inside = self._known[key]
        for port, marks in inside.outputs.items():
            bits = cell["connections"][port]
            for bit, mark in zip(bits, marks, strict=True):
                self.unite(bit, mark if isinstance(mark, str) else cell["connections"][mark[0]][mark[1]])
            self.note_range(bits, inside.ranges[port])

    def module(self, kept: dict[str, list[int]] | None = None, inside: dict[str, _Inside] | None = None) -> dict:
        """Return the module without the nets for which others stand.

        Parameters
        ----------
        kept : dict or None
            For each port the indices of the bits that remain; None for all.
        inside : dict or None
            The shared modules of which that is true, too.
        """
        inside = inside or {}
        self._driven = {
            cell["connections"][port][k]
            for cell in self.source["cells"].values()
            if cell["type"] in inside
            for port in inside[cell["type"]].outputs
            for k in inside[cell["type"]].kept[port]
        }
        cells = {label: self._cell(cell, inside.get(cell["type"])) for label, cell in self.source["cells"].items()}
        nets = {label: net | {"bits": self._word(net["bits"])} for label, net in self.source["netnames"].items()}
        ports = {}
        for port, facts in self.source["ports"].items():
            bits = self._word(facts["bits"])
            if kept is not None:
                bits = [bits[k] for k in kept[port]]
            if bits:
                ports[port] = facts | {"bits": bits}
        return {"ports": ports, "cells": cells, "netnames": nets}

    def _word(self, bits: list[Bit]) -> list[Bit]:
        return [*map(self._remaining, bits)]

    def _remaining(self, bit: Bit) -> Bit:
        """Return what stands for a net in the new module: itself where an instance still drives it, so that words stay whole."""
        while bit in self.same and bit not in self._driven:
            bit = self.same[bit]
        return CONSTANTS.get(bit, bit)

    def _cell(self, cell: dict, inside: _Inside | None) -> dict:
        connections = {port: self._word(bits) for port, bits in cell["connections"].items()}
        changed = cell | {"connections": connections}
        if inside is not None:
            changed["connections"] = {port: [connections[port][k] for k in places] for port, places in inside.kept.items() if places}
        elif cell["type"] == "$add":
            # What is cut off repeats the sign.
            y = cell["connections"]["Y"]
            connections["Y"] = y[: max(k for k, bit in enumerate(y) if bit not in self.same) + 1]
        elif cell["type"] in REGISTERS:
            places = [k for k, bit in enumerate(cell["connections"]["Q"]) if bit not in self.same]
            connections |= {port: [connections[port][k] for k in places] for port in "QD"}
            resets = self._reset_values(cell)
            changed["parameters"] = cell["parameters"] | {"SRST_VALUE": "".join(resets[k] for k in reversed(places))}
        return changed
