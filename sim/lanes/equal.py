"""Nets that always have the same value, made one before anything is generated: above all the sign bits of partial sums.

A partial sum of 32 bits holds a sum of few products: its upper bits repeat the sign, and to compute and keep them in every lane
would be most of the work of the adders. What is equal follows from words that repeat their sign, from the range of sums, and from
registers that take the same. It is followed through every instance of a shared module; what is true of all of them simplifies the
module.

At first nothing is known, and only what is known already shows more: two bits of a register are equal when what they take is, at
power-up, at a reset and in between. So all that is found holds at all times, and an accumulator, of whose sum only its own width is
known, is left as wide as it is. Words are lists of nets, lowest bit first, and have a range as signed numbers, whatever they mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sim.lanes.hierarchy import ones_at_power_up

__all__ = ["REGISTERS", "merge_equal"]

REGISTERS = {"$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"}
CONSTANTS = {"0", "1"}
#: What the reader takes undefined bits for.
UNDEFINED = {"x": "0", "z": "0"}

#: The number of a net, or a constant.
Bit = int | str
#: The least and the most that a word is.
Range = tuple[int, int]
#: What is known of the inputs of an instance, by port: for each bit a constant or a number, the same for the same net; the range.
Seen = tuple[dict[str, tuple], dict[str, Range]]


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
        instances = [label for label, cell in module["cells"].items() if cell["type"] == kind]
        known = [found.seen[label] for label in instances if label in found.seen]
        # An instance of which nothing is known, as it lacks a port, keeps its module as it is.
        if known and len(known) == len(instances):
            inside[kind] = _Inside(shared[kind], *_common(known))
    return found.module(inside), shared | {kind: part.module() for kind, part in inside.items()}


def _common(known: list[Seen]) -> Seen:
    """Return what is true of all of these instances: bits are equal that are in each of them, ranges hold those of all."""
    numbers: dict[tuple, int] = {}
    patterns, ranges = {}, {}
    for port in known[0][0]:
        columns = zip(*(pattern[port] for pattern, _ in known), strict=True)
        patterns[port] = tuple(
            marks[0] if marks[0] in CONSTANTS and len({*marks}) == 1 else numbers.setdefault(marks, len(numbers))
            for marks in columns
        )
        lows, highs = zip(*(ranges[port] for _, ranges in known), strict=True)
        ranges[port] = min(lows), max(highs)
    return patterns, ranges


class _Inside:
    """A shared module under what is known of its inputs, searched.

    Members
    -------
    kept : for each port the indices of the bits that are neither constant nor equal to an earlier bit of a port of its direction.
    links : port and index of every other bit of the outputs, with the constant that it is, or port and index of the kept one.
    ranges : of the outputs.
    """

    def __init__(self, module: dict, pattern: dict[str, tuple], ranges: dict[str, Range]) -> None:
        self._found = found = _Equal(module, {})
        first: dict[int, Bit] = {}
        for port, numbers in pattern.items():
            for bit, number in zip(module["ports"][port]["bits"], numbers, strict=True):
                found.unite(bit, number if number in CONSTANTS else first.setdefault(number, bit))
            found.note_range(module["ports"][port]["bits"], ranges[port])
        found.search()
        self.kept: dict[str, list[int]] = {}
        self.links: list[tuple[str, int, tuple[str, int] | str]] = []
        self.ranges: dict[str, Range] = {}
        leaders: dict[Bit, tuple[str, int]] = {}
        for port, facts in module["ports"].items():
            bits = facts["bits"]
            if facts["direction"] == "input":
                self.kept[port] = [k for k, bit in enumerate(bits) if bit not in found.same]
                continue
            roots = found.word(bits)
            marks = [root if root in CONSTANTS else leaders.setdefault(root, (port, k)) for k, root in enumerate(roots)]
            self.kept[port] = [k for k, mark in enumerate(marks) if mark == (port, k)]
            self.links += [(port, k, mark) for k, mark in enumerate(marks) if mark != (port, k)]
            if bits:
                self.ranges[port] = found.range_of(bits)

    def module(self) -> dict:
        """Return the module with the bits of its ports that are kept."""
        module = self._found.module({})
        ports = {port: facts | {"bits": [facts["bits"][k] for k in self.kept[port]]} for port, facts in module["ports"].items()}
        return module | {"ports": {port: facts for port, facts in ports.items() if facts["bits"]}}


class _Equal:
    """The search in one module.

    Parameters
    ----------
    source : dict
        The module, in the form of Yosys' JSON.
    shared : dict
        The modules whose instances are to be followed.

    Members
    -------
    same : for each net that has always the value of another net, or is constant, what stands for it; others stand for themselves.
    seen : what leads to each instance.
    """

    def __init__(self, source: dict, shared: dict[str, dict]) -> None:
        self.source = source
        self.shared = shared
        self.same: dict[Bit, Bit] = dict(UNDEFINED)
        self.seen: dict[str, Seen] = {}
        self._ones = ones_at_power_up(source)
        #: The nets for which a net or a constant stands.
        self._members: dict[Bit, list[Bit]] = {}
        #: Words whose range is known, by their first bit.
        self._ranges: dict[Bit, list[tuple[list[Bit], Range]]] = {}
        #: The cells that learn from a net.
        self._readers: dict[Bit, list[str]] = {}
        self._waiting: deque[str] = deque()
        self._queued: set[str] = set()
        self._known: dict[tuple, _Inside] = {}
        for label, cell in source["cells"].items():
            for bits in self._read(cell):
                for bit in {*bits}:
                    self._readers.setdefault(bit, []).append(label)
                self._wake([label])

    def _read(self, cell: dict) -> list[list[Bit]]:
        """Return the words from which a cell can learn: none of a cell that is not understood."""
        if cell["type"] in REGISTERS:
            return [cell["connections"]["D"]]
        if cell["type"] == "$add":
            return [cell["connections"]["A"], cell["connections"]["B"]]
        if cell["type"] in self.shared:
            ports = self.shared[cell["type"]]["ports"]
            if all(len(cell["connections"].get(port, ())) == len(facts["bits"]) for port, facts in ports.items()):
                return [*self._inputs(cell).values()]
        return []

    def _inputs(self, cell: dict) -> dict[str, list[Bit]]:
        """Return the words that lead to an instance, in the order of its ports; a port of no bits is none."""
        ports = self.shared[cell["type"]]["ports"]
        return {port: cell["connections"][port] for port, facts in ports.items() if facts["direction"] == "input" and facts["bits"]}

    def _wake(self, labels: Iterable[str]) -> None:
        for label in labels:
            if label not in self._queued:
                self._queued.add(label)
                self._waiting.append(label)

    def find(self, bit: Bit) -> Bit:
        """Return what stands for a net."""
        return self.same.get(bit, bit)

    def word(self, bits: list[Bit]) -> list[Bit]:
        """Return what stands for the nets of a word."""
        return [*map(self.same.get, bits, bits)]

    def unite(self, bit: Bit, other: Bit) -> None:
        """Note that a net has always the value of another net, which then stands for it, or is constant."""
        bit, other = self.find(bit), self.find(other)
        if bit != other and bit not in CONSTANTS:
            members = [*self._members.pop(bit, ()), bit]
            self.same.update(dict.fromkeys(members, other))
            self._members.setdefault(other, []).extend(members)
            readers = self._readers.pop(bit, [])
            self._readers.setdefault(other, []).extend(readers)
            self._wake(readers)

    def _stripped(self, bits: list[Bit]) -> list[Bit]:
        """Return what stands for the nets of a signed word, without repetitions of the sign."""
        word = self.word(bits)
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
        if CONSTANTS.issuperset(word):
            low = high = _number(word)
        for known_bits, known in self._ranges.get(bits[0], ()):
            if self._stripped(known_bits) == word:
                low, high = max(low, known[0]), min(high, known[1])
        return low, high

    def search(self) -> None:
        """Follow what is known through registers, adders and instances until nothing new turns up."""
        while self._waiting:
            label = self._waiting.popleft()
            self._queued.remove(label)
            cell = self.source["cells"][label]
            if cell["type"] in self.shared:
                self._through_instance(label, cell)
            elif cell["type"] == "$add":
                self._through_adder(cell)
            else:
                self._through_register(cell)

    def _through_register(self, cell: dict) -> None:
        q, d = cell["connections"]["Q"], cell["connections"]["D"]
        init, resets = ["1" if bit in self._ones else "0" for bit in q], _reset_values(cell)
        first: dict[tuple, Bit] = {}
        for bit, *taken in zip(q, self.word(d), init, resets, strict=True):
            self.unite(bit, first.setdefault(tuple(taken), bit))
        lows, highs = zip(self.range_of(d), *[(_number(digits),) * 2 for digits in (init, resets)], strict=True)
        self.note_range(q, (min(lows), max(highs)))

    def _through_adder(self, cell: dict) -> None:
        a, b, y = (cell["connections"][port] for port in "ABY")
        signed = all(int(cell["parameters"][name], 2) for name in ("A_SIGNED", "B_SIGNED"))
        # In the width of the sum, and as long as it does not wrap around, it is the same in signed numbers.
        words = [(bits + [bits[-1] if signed else "0"] * len(y))[: len(y)] for bits in (a, b)]
        low, high = map(sum, zip(*map(self.range_of, words), strict=True))
        if -(1 << len(y) - 1) <= low and high < 1 << len(y) - 1:
            self.note_range(y, (low, high))

    def _through_instance(self, label: str, cell: dict) -> None:
        kind, connections = cell["type"], cell["connections"]
        numbers: dict[Bit, int] = {}
        pattern, ranges = {}, {}
        for port, bits in self._inputs(cell).items():
            roots = self.word(bits)
            pattern[port] = tuple(root if root in CONSTANTS else numbers.setdefault(root, len(numbers)) for root in roots)
            ranges[port] = self.range_of(bits)
        if self.seen.get(label) == (pattern, ranges):
            return
        self.seen[label] = pattern, ranges
        key = kind, *pattern.values(), *ranges.values()
        if key not in self._known:
            self._known[key] = _Inside(self.shared[kind], pattern, ranges)
        inside = self._known[key]
        for port, k, mark in inside.links:
            self.unite(connections[port][k], mark if mark in CONSTANTS else connections[mark[0]][mark[1]])
        for port, known in inside.ranges.items():
            self.note_range(connections[port], known)

    def module(self, inside: dict[str, _Inside]) -> dict:
        """Return the module without the nets for which others stand, its instances with the ports that ``inside`` keeps."""
        # An instance goes on driving what its module keeps, even where more is known of it: its words stay whole.
        same = dict(self.same)
        for cell in self.source["cells"].values():
            if cell["type"] in self.shared:
                self._connect(cell, inside.get(cell["type"]), same)

        def word(bits: list[Bit]) -> list[Bit]:
            return [*map(same.get, bits, bits)]

        cells = {}
        for label, cell in self.source["cells"].items():
            connections = {port: word(bits) for port, bits in cell["connections"].items()}
            cells[label] = changed = cell | {"connections": connections}
            if cell["type"] in inside:
                kept = inside[cell["type"]].kept
                changed["connections"] = {port: [connections[port][k] for k in places] for port, places in kept.items() if places}
            elif cell["type"] == "$add":
                # What is cut off repeats the sign.
                y = cell["connections"]["Y"]
                connections["Y"] = y[: max(k for k, bit in enumerate(y) if bit not in same) + 1]
            elif cell["type"] in REGISTERS:
                places = [k for k, bit in enumerate(cell["connections"]["Q"]) if bit not in same]
                connections |= {port: [connections[port][k] for k in places] for port in "QD"}
                resets = _reset_values(cell)
                changed["parameters"] = cell["parameters"] | {"SRST_VALUE": "".join(resets[k] for k in reversed(places))}
        nets = {label: net | {"bits": word(net["bits"])} for label, net in self.source["netnames"].items()}
        ports = {port: facts | {"bits": word(facts["bits"])} for port, facts in self.source["ports"].items()}
        return {"ports": ports, "cells": cells, "netnames": nets}

    def _connect(self, cell: dict, inside: _Inside | None, same: dict[Bit, Bit]) -> None:
        """Change what stands for the outputs of an instance to what its module keeps."""
        connections = cell["connections"]
        for port, facts in self.shared[cell["type"]]["ports"].items():
            if facts["direction"] != "input":
                for bit in connections.get(port, ()):
                    same.pop(bit, None)
        for port, k, mark in inside.links if inside else ():
            same[connections[port][k]] = mark if mark in CONSTANTS else connections[mark[0]][mark[1]]


def _number(digits: list[str]) -> int:
    """Return what the digits of a word, lowest first, are as a signed number."""
    return int("".join(digits[::-1]), 2) - (1 << len(digits) if digits[-1] == "1" else 0)


def _reset_values(cell: dict) -> list[str]:
    """Return what each bit of a register is at a reset, 0 where it has none."""
    digits = cell["parameters"].get("SRST_VALUE", "")[::-1]
    return [UNDEFINED.get(digit, digit) for digit in digits] or ["0"] * len(cell["connections"]["Q"])
