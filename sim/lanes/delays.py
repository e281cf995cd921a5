"""Finding the registers that merely delay: chains of them are kept in rings instead of being moved along."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass

from sim.lanes.gates import ONE, ZERO
from sim.lanes.layout import MOST_VECTORS
from sim.lanes.netlist import Netlist, Register
from sim.lanes.plan import Varying

__all__ = ["Line", "find_lines", "split_registers"]

#: Stages of a line of vectors: of each it is remembered in a bit (``History`` of runtime.h) whether it may have changed.
MOST_STAGES = 128


@dataclass(eq=False)
class Line:
    """Registers of which each takes what the one before had, in the order of the flow; ``seen`` are those that others read, too."""

    registers: list[Register]
    seen: list[int]


def split_registers(top: Netlist, varying: Varying) -> None:
    """Cut wide registers that merely delay into the parts that come from or go to different places."""
    boundaries: set[int] = set()
    for register in top.registers:
        boundaries |= {register.d[0], register.q[0]}
    for nodes in top.inputs.values():
        boundaries |= {nodes[0]}
    for instance in top.instances:
        boundaries |= {nodes[0] for nodes in (*instance.inputs.values(), *instance.outputs.values()) if nodes}
    registers = []
    for register in top.registers:
        pure = register.enable == ONE and varying.any(register.q) and not any((*register.init, *register.reset_value))
        if not pure or any(top.graph.op[node] != "src" for node in register.d):
            registers.append(register)
            continue
        starts = [0]
        for k in range(1, len(register.q)):
            if register.q[k] in boundaries or register.d[k] in boundaries or register.d[k] != register.d[k - 1] + 1:
                starts.append(k)
        for start, stop in zip(starts, [*starts[1:], len(register.q)], strict=True):
            part = slice(start, stop)
            zeros = [0] * (stop - start)
            registers.append(Register(register.name, register.q[part], register.d[part], ONE, register.reset, zeros, zeros))
    top.registers = registers


def find_lines(top: Netlist, varying: Varying) -> tuple[list[Line], list[Register]]:
    """Return the pure delays, and the other registers.

    A line of vectors can be read at any stage, one of scalars only at its end.
    """
    uses = Counter(top.uses())

    def delays(register: Register) -> bool:
        plain = register.reset == ZERO or not any(register.reset_value)
        return register.enable == ONE and plain and not any(register.init) and not varying(register.reset)

    by_output = {tuple(register.q): register for register in top.registers if delays(register)}
    before: dict[Register, Register] = {}
    inner: set[Register] = set()
    for register in by_output.values():
        source = by_output.get(tuple(register.d))
        if source is None or source is register or source in inner or varying.any(source.q) != varying.any(register.q):
            continue
        if all(uses[q] == 1 for q in source.q) or (varying.any(source.q) and len(source.q) <= MOST_VECTORS):
            before[register] = source
            inner.add(source)
    lines = []
    ends = deque(register for register in top.registers if register in before and register not in inner)
    while ends:
        line = [ends.popleft()]
        while line[-1] in before and _one_reset([*line, before[line[-1]]]) and len(line) < MOST_STAGES:
            line.append(before[line[-1]])
        if line[-1] in before:
            ends.append(before[line[-1]])
        lines.append(line[::-1])
    # Rings without an end are plain registers, and so is a stage alone.
    lines = [line for line in lines if len(line) > 1]
    taken = {register for line in lines for register in line}

    def seen(line: list[Register]) -> list[int]:
        last = len(line) - 1
        return [stage for stage, register in enumerate(line) if any(uses[q] > (stage < last) for q in register.q)]

    return [Line(line, seen(line)) for line in lines], [register for register in top.registers if register not in taken]


def _one_reset(line: list[Register]) -> bool:
    """Whether at most the first and the last registers of a delay line are reset, all by the same signal."""
    resets = [register.reset != ZERO for register in line]
    changes = sum(one != other for one, other in itertools.pairwise(resets))
    return len({register.reset for register in line} - {ZERO}) <= 1 and changes <= (2 if resets[0] else 1)
