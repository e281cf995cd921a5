"""Finding the registers that merely delay: chains of them are kept in rings instead of being moved along."""

from __future__ import annotations

import itertools

from sim.lanes.gates import ONE, ZERO
from sim.lanes.netlist import Netlist, Register
from sim.lanes.plan import Varying

__all__ = ["find_lines", "split_registers"]


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


def find_lines(top: Netlist, varying: Varying) -> tuple[list[list[Register]], list[Register]]:
    """Return the pure delays, as registers in the order of the flow, and the other registers."""
    uses: dict[int, int] = {}

    def use(nodes) -> None:
        for node in nodes:
            uses[node] = uses.get(node, 0) + 1

    for node in top.graph.gates():
        use(top.graph.operands(node))
    for register in top.registers:
        use((*register.d, register.enable, register.reset))
    for memory in top.memories:
        for port in memory.reads:
            use((*port.address, port.enable, port.reset))
        for port in memory.writes:
            use((*port.address, *port.data, *port.enable))
    for instance in top.instances:
        for nodes in instance.inputs.values():
            use(nodes)
    for nodes in top.outputs.values():
        use(nodes)

    def delays(register: Register) -> bool:
        plain = register.reset == ZERO or not any(register.reset_value)
        return register.enable == ONE and plain and not any(register.init) and not varying(register.reset)

    by_output = {tuple(register.q): register for register in top.registers if delays(register)}
    before: dict[Register, Register] = {}
    for register in by_output.values():
        source = by_output.get(tuple(register.d))
        same = source is not None and source is not register
        if same and varying.any(source.q) == varying.any(register.q) and all(uses[q] == 1 for q in source.q):
            before[register] = source
    inner = set(before.values())
    lines = []
    for register in top.registers:
        if register in before and register not in inner:
            line = [register]
            while line[-1] in before and _one_reset([*line, before[line[-1]]]):
                line.append(before[line[-1]])
            inner.add(line[-1])
            lines.append(line[::-1])
    # What is left of a line whose resets are too mixed, or of a ring without an end, are plain registers.
    lines = [line for line in lines if len(line) > 1]
    taken = {register for line in lines for register in line}
    return lines, [register for register in top.registers if register not in taken]


def _one_reset(line: list[Register]) -> bool:
    """Whether at most the first and the last registers of a delay line are reset, all by the same signal."""
    resets = [register.reset != ZERO for register in line]
    changes = sum(one != other for one, other in itertools.pairwise(resets))
    return len({register.reset for register in line} - {ZERO}) <= 1 and changes <= (2 if resets[0] else 1)
