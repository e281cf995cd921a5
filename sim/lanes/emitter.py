"""C statements for the gates of a graph: ``V``, a bit per lane, for what differs between lanes, ``uint8_t`` for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from sim.lanes.gates import ONE, ZERO
from sim.lanes.luts import cover
from sim.lanes.plan import Varying

__all__ = ["Emitter", "reuse_operands"]


class Emitter:
    """Collects the statements of a C function, each gate once and in the order of need.

    Parameters
    ----------
    varying : Varying
    load : function
        Returns the C expression of a node that is not to be computed here, else None.
    force : function or None
        Wraps the expression of a node that varies, so that it can be stuck.
    read : function or None
        Returns the C expression of a bit of an asynchronous memory read, given its tag and the names of its address bits.
    ternary : bool
        Write vectors as three-input look-ups.
    """

    def __init__(
        self,
        varying: Varying,
        load: Callable[[int], str | None],
        *,
        force: Callable[[int, str], str] | None = None,
        read: Callable[[tuple, list[str]], str] | None = None,
        ternary: bool = False,
    ) -> None:
        self.varying = varying
        self.graph = varying.netlist.graph
        self.lines: list[str] = []
        self._load = load
        self.force = force
        self._read = read
        self.ternary = ternary
        self._covered: dict[int, tuple[tuple[int, ...], int]] = {}
        self._done: set[int] = set()
        self._masks: set[int] = set()

    def inner(self) -> Emitter:
        """Return an emitter for a block inside: what is computed already can be used there, and not the other way round."""
        child = Emitter(self.varying, self._load, force=self.force, read=self._read, ternary=self.ternary)
        child._done = set(self._done)
        child._masks = set(self._masks)
        return child

    def prepare(self, nodes: Iterable[int]) -> None:
        """Announce nodes that will be asked for as vectors, so that they are covered by look-ups together."""
        if self.ternary:
            goals = [node for node in nodes if node > ONE and node not in self._done and self.varying(node)]
            self._covered = cover(
                self.graph, goals, lambda node: node in self._done or not self.varying(node) or self._load(node) is not None
            )

    def scalar(self, node: int) -> str:
        """Return the C expression of a node that is the same in all lanes."""
        assert not self.varying(node)
        return self._value(node)

    def vector(self, node: int) -> str:
        """Return the C expression of any node as a vector."""
        if node == ZERO:
            return "NONE"
        if node == ONE:
            return "ALL"
        name = self._value(node)
        if self.varying(node):
            return name
        if node not in self._masks:
            self._masks.add(node)
            self.lines.append(f"const V m{node} = MASK({name});")
        return f"m{node}"

    def _value(self, goal: int) -> str:
        if goal <= ONE:
            return str(goal)
        stack = [goal]
        while stack:
            node = stack[-1]
            if node in self._done or node <= ONE:
                stack.pop()
                continue
            loaded = self._load(node)
            if loaded is None:
                missing = [operand for operand in self._operands(node) if operand > ONE and operand not in self._done]
                if missing:
                    stack.extend(reversed(missing))
                    continue
            self._define(node, loaded)
            stack.pop()
        return f"n{goal}"

    def _define(self, node: int, loaded: str | None) -> None:
        self._done.add(node)
        vector = self.varying(node)
        expression = loaded if loaded is not None else self._expression(node, vector)
        if vector and self.force:
            expression = self.force(node, expression)
        self.lines.append(f"const {'V' if vector else 'uint8_t'} n{node} = {expression};")

    def _operands(self, node: int) -> tuple[int, ...]:
        if node in self._covered:
            return self._covered[node][0]
        return self._selection(node) or self.graph.operands(node)

    def _selection(self, node: int) -> tuple[int, int, int] | None:
        """Return a majority as (select, low, high) by the half sum that the same full adder's sum needs: one gate less."""
        graph = self.graph
        if graph.op[node] != "maj" or self.force or not self.varying(node):
            return None
        x, y, z = graph.args[node]
        for one, other, third in ((x, y, z), (x, z, y), (y, z, x)):
            if (half := self._half_sum(one, other)) is not None:
                return half, one, third
            for inverted, plain in ((one, other), (other, one)):
                if graph.op[inverted] != "not" or not self.varying(inverted):
                    continue
                if (half := self._half_sum(graph.args[inverted][0], plain)) is not None:
                    return half, third, plain
        return None

    def _half_sum(self, one: int, other: int) -> int | None:
        """Return the exclusive or of two nodes, if there is one and it differs between lanes: a cluster has no gates of scalars."""
        half = self.graph.known_xor(one, other)
        return half if half is not None and self.varying(half) else None

    def _expression(self, node: int, vector: bool) -> str:
        if node in self._covered:
            leaves, table = self._covered[node]
            return _lookup([self.vector(leaf) for leaf in leaves], table)
        operands = [self.vector(operand) if vector else self._value(operand) for operand in self._operands(node)]
        match "mux" if self._selection(node) else self.graph.op[node]:
            case "read":
                return self._read(self.graph.args[node][0], operands)
            case "not":
                return f"~{operands[0]}" if vector else f"{operands[0]} ^ 1"
            case "and":
                return f"{operands[0]} & {operands[1]}"
            case "or":
                return f"{operands[0]} | {operands[1]}"
            case "xor":
                return f"{operands[0]} ^ {operands[1]}"
            case "mux":
                select, low, high = operands
                return f"({select} & {high}) | (~{select} & {low})" if vector else f"{select} ? {high} : {low}"
            case "maj":
                x, y, z = operands
                return f"MAJORITY({x}, {y}, {z})" if vector else f"({x} & {y}) | ({z} & ({x} | {y}))"
        raise AssertionError(f"node {node} ({self.graph.op[node]}) must be loaded")


#: Truth tables of two inputs (as in ``luts``) that have an instruction of their own, which need not overwrite an operand.
PAIRS = {0xC0: "{0} & {1}", 0xFC: "{0} | {1}", 0x3C: "{0} ^ {1}", 0x30: "{0} & ~{1}", 0x0C: "~{0} & {1}"}


def _lookup(names: list[str], table: int) -> str:
    if not names:
        return "ALL" if table else "NONE"
    if len(names) == 1:
        return f"~{names[0]}"
    if len(names) == 2 and table in PAIRS:
        return PAIRS[table].format(*names)
    return f"LOOKUP({', '.join(names + names[-1:] * (3 - len(names)))}, {table:#04x})"


def reuse_operands(text: str) -> str:
    """Return a function's text with the operands of look-ups so ordered that the first is not needed afterwards, if there is such.

    The instruction overwrites its first operand; the compiler would have to copy it otherwise, and does not exchange them itself.
    """
    last: dict[str, int] = {}
    loaded: set[str] = set()
    lines = text.split("\n")
    for index, line in enumerate(lines):
        for name in re.findall(r"\bn\d+\b", line):
            last[name] = index
        if (load := re.match(r"const V (n\d+) = [sgp]\w*\[", line)) is not None:
            loaded.add(load[1])

    def ordered(index: int, match: re.Match) -> str:
        names = list(match.groups()[:3])
        # The first is overwritten, the last may come from memory.
        order = sorted(range(3), key=lambda k: (last.get(names[k], index + 1) > index, names[k] in loaded))
        if len(set(names)) < 3:
            return match[0]
        old = int(match[4], 16)
        table = 0
        for case in range(8):
            bits = [case >> 2 & 1, case >> 1 & 1, case & 1]
            original = [0, 0, 0]
            for position, k in enumerate(order):
                original[k] = bits[position]
            table |= (old >> (4 * original[0] + 2 * original[1] + original[2]) & 1) << case
        return f"LOOKUP({', '.join(names[k] for k in order)}, {table:#04x})"

    pattern = re.compile(r"LOOKUP\((\w+), (\w+), (\w+), (0x\w\w)\)")
    return "\n".join(pattern.sub(lambda match, index=index: ordered(index, match), line) for index, line in enumerate(lines))
