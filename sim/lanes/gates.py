"""A graph of single-bit gates, and the arithmetic of Yosys' word-level cells in terms of it."""

from __future__ import annotations

import itertools

__all__ = ["ONE", "ZERO", "Graph", "UnsupportedDesign", "blast"]

ZERO, ONE = 0, 1


class UnsupportedDesign(ValueError):
    """A design that the generator cannot handle; the message names the cell or net."""


class Graph:
    """Gates in topological order: every operand of a node has a smaller number.

    ``op[n]`` is ``const``, ``src`` (a register bit, an input, ...; ``args`` is a tag), ``read`` (bit of an asynchronous memory
    read; ``args`` is (tag, address bits)), ``not``, ``and``, ``or``, ``xor``, ``mux`` (select, low, high) or ``maj``.

    Parameters
    ----------
    literal : bool
        Keep the gates as they are described (only constants are folded), so that each of their nets can be forced.
    """

    def __init__(self, *, literal: bool = False) -> None:
        self.literal = literal
        self.op: list[str] = ["const", "const"]
        self.args: list[tuple] = [(), ()]
        self._known: dict[tuple, int] = {}

    def __len__(self) -> int:
        return len(self.op)

    def operands(self, node: int) -> tuple[int, ...]:
        """Return the nodes that a node depends on combinationally."""
        op = self.op[node]
        if op in ("const", "src"):
            return ()
        return self.args[node][1] if op == "read" else self.args[node]

    def gates(self) -> list[int]:
        """Return the nodes that have operands, in order."""
        return [node for node, op in enumerate(self.op) if op not in ("const", "src")]

    def source(self, tag: tuple) -> int:
        return self._node("src", tag)

    def read(self, tag: tuple, address: tuple[int, ...]) -> int:
        return self._node("read", (tag, address))

    def evaluate(self, goals: list[int], values: dict[int, int] | None = None, *, ones: int = 1) -> list[int]:
        """Return the values of nodes, as bits of an integer each: many evaluations at the same time.

        Parameters
        ----------
        values : dict or None
            Of some nodes; sources that are not there are 0.
        ones : int
            The value of a node that is 1 in all evaluations.
        """
        values = {ZERO: 0, ONE: ones, **(values or {})}
        todo = list(goals)
        while todo:
            node = todo[-1]
            if node in values:
                todo.pop()
                continue
            operands = self.operands(node)
            if missing := [operand for operand in operands if operand not in values]:
                todo += missing
                continue
            given = [values[operand] for operand in operands]
            match self.op[node]:
                case "src" | "read":
                    values[node] = 0
                case "not":
                    values[node] = ~given[0] & ones
                case "and":
                    values[node] = given[0] & given[1]
                case "or":
                    values[node] = given[0] | given[1]
                case "xor":
                    values[node] = given[0] ^ given[1]
                case "mux":
                    select, low, high = given
                    values[node] = (select & high) | (~select & low)
                case "maj":
                    x, y, z = given
                    values[node] = (x & y) | (x & z) | (y & z)
        return [values[node] for node in goals]

    def not_(self, x: int) -> int:
        if x <= ONE:
            return ONE - x
        if self.op[x] == "not":
            return self.args[x][0]
        return self._node("not", (x,))

    def _complementary(self, x: int, y: int) -> bool:
        return (self.op[x] == "not" and self.args[x][0] == y) or (self.op[y] == "not" and self.args[y][0] == x)

    def and_(self, x: int, y: int) -> int:
        if x > y:
            x, y = y, x
        if x == ZERO:
            return ZERO
        if x in (ONE, y):
            return y
        if self._complementary(x, y):
            return ZERO
        if not self.literal and self.op[y] == "and" and x in self.args[y]:
            return y
        return self._node("and", (x, y))

    def or_(self, x: int, y: int) -> int:
        if x > y:
            x, y = y, x
        if x == ONE:
            return ONE
        if x in (ZERO, y):
            return y
        if self._complementary(x, y):
            return ONE
        if not self.literal and self.op[x] == "and" and self.op[y] == "and":
            # A full adder's carry written with its half sum: one three-input gate, and the half sum can vanish.
            for pair, other in ((self.args[x], self.args[y]), (self.args[y], self.args[x])):
                for half, third in (other, other[::-1]):
                    if self.op[half] == "xor" and self.args[half] == pair:
                        return self.majority(*pair, third)
        return self._node("or", (x, y))

    def xor(self, x: int, y: int) -> int:
        if x > y:
            x, y = y, x
        if x == y:
            return ZERO
        if x == ZERO:
            return y
        if x == ONE:
            return self.not_(y)
        if self._complementary(x, y):
            return ONE
        if not self.literal:
            if self.op[x] == "not":
                return self.not_(self.xor(self.args[x][0], y))
            if self.op[y] == "not":
                return self.not_(self.xor(x, self.args[y][0]))
        return self._node("xor", (x, y))

    def mux(self, select: int, low: int, high: int) -> int:
        if select <= ONE:
            return high if select else low
        if low == high:
            return low
        if self.op[select] == "not" and not self.literal:
            return self.mux(self.args[select][0], high, low)
        if low == ZERO:
            return self.and_(select, high)
        if high == ZERO:
            return self.and_(self.not_(select), low)
        if low == ONE:
            return self.or_(self.not_(select), high)
        if high == ONE:
            return self.or_(select, low)
        return self._node("mux", (select, low, high))

    def majority(self, x: int, y: int, z: int) -> int:
        x, y, z = sorted((x, y, z))
        if x == y or y == z:
            return y
        if x == ZERO:
            return self.and_(y, z)
        if ONE in (x, y):
            return self.or_(x if y == ONE else y, z)
        return self._node("maj", (x, y, z))

    def known_xor(self, x: int, y: int) -> int | None:
        """Return the node that is the exclusive or of two nodes, if there is one."""
        return self._known.get(("xor", (min(x, y), max(x, y))))

    def _node(self, op: str, args: tuple) -> int:
        key = (op, args)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self.op)
            self.op.append(op)
            self.args.append(args)
        return found

    # Words are lists of nodes, lowest bit first.

    def any(self, word: list[int]) -> int:
        result = ZERO
        for bit in word:
            result = self.or_(result, bit)
        return result

    def all(self, word: list[int]) -> int:
        result = ONE
        for bit in word:
            result = self.and_(result, bit)
        return result

    def add(self, a: list[int], b: list[int], carry: int = ZERO) -> list[int]:
        """Return the sum, as wide as the operands."""
        if self.literal:
            return self._ripple(a, b, carry)
        result = []
        # Where an operand repeats its sign bit, what matters is whether the carry differs from it: fewer gates than a full adder.
        repeated = differs = None
        for x, y, *following in itertools.zip_longest(a, b, a[1:], b[1:]):
            if x == repeated:
                x, y = y, x
            if y != repeated:
                if repeated is not None:
                    carry, repeated = self.xor(differs, repeated), None
                if x in following:
                    x, y = y, x
                if y in following:
                    repeated, differs = y, self.xor(y, carry)
            result.append(self.xor(self.xor(x, y), carry) if repeated is None else self.xor(x, differs))
            if following == [None, None]:
                break
            if repeated is None:
                carry = self.majority(x, y, carry)
            else:
                differs = self.and_(differs, self.xor(x, y))
        return result

    def _ripple(self, a: list[int], b: list[int], carry: int) -> list[int]:
        """Return the sum by full adders, each of two half adders."""
        result = []
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            half = self.xor(x, y)
            result.append(self.xor(half, carry))
            if index + 1 < len(a):
                carry = self.or_(self.and_(x, y), self.and_(half, carry))
        return result

    def subtract(self, a: list[int], b: list[int]) -> list[int]:
        return self.add(a, [self.not_(bit) for bit in b], ONE)

    def multiply(self, a: list[int], b: list[int], b_signed: bool) -> list[int]:
        """Return the product modulo ``2 ** len(a)``; ``b`` in its own width, its last bit of negative weight where signed."""
        width = len(a)
        total = [ZERO] * width
        for shift, bit in enumerate(b[:width]):
            row = [self.and_(x, bit) for x in a[: width - shift]]
            upper = self.subtract(total[shift:], row) if b_signed and shift == len(b) - 1 else self.add(total[shift:], row)
            total = total[:shift] + upper
        return total

    def less(self, a: list[int], b: list[int], signed: bool) -> int:
        """Return a < b for words of the same width."""
        if not a:
            return ZERO
        if signed:
            a, b = [*a[:-1], b[-1]], [*b[:-1], a[-1]]
        result = ZERO
        for x, y in zip(a, b, strict=True):
            result = self.majority(self.not_(x), y, result)
        return result

    def equal(self, a: list[int], b: list[int]) -> int:
        return self.not_(self.any([self.xor(x, y) for x, y in zip(a, b, strict=True)]))

    def shift_right(self, a: list[int], amount: list[int], fill: int) -> list[int]:
        for position, select in enumerate(amount):
            if select == ZERO:
                continue
            step = 1 << position
            moved = [fill] * len(a) if step >= len(a) else a[step:] + [fill] * step
            a = [self.mux(select, low, high) for low, high in zip(a, moved, strict=True)]
        return a

    def shift_left(self, a: list[int], amount: list[int]) -> list[int]:
        return self.shift_right(a[::-1], amount, ZERO)[::-1]


def _extended(word: list[int], width: int, signed: bool) -> list[int]:
    fill = word[-1] if signed and word else ZERO
    return (word + [fill] * width)[:width]


BITWISE = {"$not", "$pos", "$and", "$or", "$xor", "$xnor", "$mux"}


def blast(graph: Graph, name: str, kind: str, parameters: dict[str, int], ports: dict[str, list[int]], width: int) -> list[int]:
    """Return the output bits of a combinational cell; ``ports`` holds the nodes of its inputs.

    Raises
    ------
    UnsupportedDesign
        For a cell that is not known.
    """
    g = graph
    a, b, s = ports.get("A", []), ports.get("B", []), ports.get("S", [])
    a_signed = bool(parameters.get("A_SIGNED", 0))
    both_signed = a_signed and bool(parameters.get("B_SIGNED", 0))
    wide_a, wide_b = _extended(a, width, both_signed if b else a_signed), _extended(b, width, both_signed)
    common = max(len(a), len(b))
    compared = _extended(a, common, both_signed), _extended(b, common, both_signed)

    def flag(bit: int) -> list[int]:
        return _extended([bit], width, False)

    match kind:
        case "$pos":
            return wide_a
        case "$not":
            return [g.not_(x) for x in wide_a]
        case "$and":
            return [g.and_(x, y) for x, y in zip(wide_a, wide_b, strict=True)]
        case "$or":
            return [g.or_(x, y) for x, y in zip(wide_a, wide_b, strict=True)]
        case "$xor":
            return [g.xor(x, y) for x, y in zip(wide_a, wide_b, strict=True)]
        case "$xnor":
            return [g.not_(g.xor(x, y)) for x, y in zip(wide_a, wide_b, strict=True)]
        case "$mux":
            return [g.mux(s[0], x, y) for x, y in zip(a, b, strict=True)]
        case "$pmux":
            for index, select in enumerate(s):
                a = [g.mux(select, x, y) for x, y in zip(a, b[index * width : (index + 1) * width], strict=True)]
            return a
        case "$bmux":
            for select in reversed(s):
                half = len(a) // 2
                a = [g.mux(select, x, y) for x, y in zip(a[:half], a[half:], strict=True)]
            return a
        case "$logic_not":
            return flag(g.not_(g.any(a)))
        case "$logic_and":
            return flag(g.and_(g.any(a), g.any(b)))
        case "$logic_or":
            return flag(g.or_(g.any(a), g.any(b)))
        case "$reduce_or" | "$reduce_bool":
            return flag(g.any(a))
        case "$reduce_and":
            return flag(g.all(a))
        case "$reduce_xor" | "$reduce_xnor":
            parity = ZERO if kind == "$reduce_xor" else ONE
            for x in a:
                parity = g.xor(parity, x)
            return flag(parity)
        case "$add":
            return g.add(wide_a, wide_b)
        case "$sub":
            return g.subtract(wide_a, wide_b)
        case "$neg":
            return g.subtract([ZERO] * width, wide_a)
        case "$mul":
            return g.multiply(wide_a, b, both_signed)
        case "$eq" | "$eqx":
            return flag(g.equal(*compared))
        case "$ne" | "$nex":
            return flag(g.not_(g.equal(*compared)))
        case "$lt":
            return flag(g.less(*compared, both_signed))
        case "$gt":
            return flag(g.less(*compared[::-1], both_signed))
        case "$ge":
            return flag(g.not_(g.less(*compared, both_signed)))
        case "$le":
            return flag(g.not_(g.less(*compared[::-1], both_signed)))
        case "$shl" | "$sshl":
            return g.shift_left(_extended(a, width, a_signed), b)
        case "$shr" | "$sshr":
            signed = a_signed and kind == "$sshr"
            wide = _extended(a, max(width, len(a)), a_signed)
            return g.shift_right(wide, b, wide[-1] if signed else ZERO)[:width]
        case "$shift" | "$shiftx" if not parameters.get("B_SIGNED", 0):
            signed = a_signed and kind == "$shift"
            wide = _extended(a, max(width, len(a)), signed)
            return g.shift_right(wide, b, wide[-1] if signed else ZERO)[:width]
    raise UnsupportedDesign(f"The lane generator does not know the cell {name} of type {kind}")
