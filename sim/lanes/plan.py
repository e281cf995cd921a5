"""What is computed once for all lanes, what in every lane, where its bits are kept, and in which order they are renewed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from sim.lanes.gates import ONE, ZERO, UnsupportedDesign
from sim.lanes.netlist import Netlist, Register

__all__ = ["Varying", "find_varying", "next_state"]


@dataclass(eq=False)
class Varying:
    """The nodes of a netlist whose value differs between lanes; nodes made later follow from their operands."""

    netlist: Netlist
    flags: bytearray

    def __call__(self, node: int) -> bool:
        graph = self.netlist.graph
        for new in range(len(self.flags), len(graph)):
            self.flags.append(any(self.flags[operand] for operand in graph.operands(new)))
        return bool(self.flags[node])

    def any(self, nodes: list[int]) -> bool:
        return any(self(node) for node in nodes)


@dataclass(eq=False)
class _Watch:
    """What happens when a node turns out to vary: other nodes of this and of other netlists do."""

    users: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    others: dict[int, list[tuple[str, list[int]]]] = field(default_factory=lambda: defaultdict(list))


TOP = ""


def find_varying(
    top: Netlist, shared: dict[str, Netlist], inputs: set[str], *, forced: set[str] = frozenset()
) -> dict[str, Varying]:
    """Return what varies in the top module (key ``""``) and in each shared one, when these input ports of the top do.

    Parameters
    ----------
    forced : set of str
        Shared modules of which everything is to vary.

    Raises
    ------
    UnsupportedDesign
        For a memory whose addresses or write enables vary, naming it.
    """
    netlists = {TOP: top, **shared}
    watches = {name: _watch(name, netlist, shared) for name, netlist in netlists.items()}
    flags = {name: bytearray(len(netlist.graph)) for name, netlist in netlists.items()}
    for instance in top.instances:
        kind = shared[instance.kind]
        for port, nodes in instance.inputs.items():
            for node in nodes:
                watches[TOP].others[node].append((instance.kind, kind.inputs[port]))
        for port, nodes in instance.outputs.items():
            for inner, outer in zip(kind.outputs[port], nodes, strict=True):
                watches[instance.kind].others[inner].append((TOP, [outer]))
    todo = [(TOP, node) for port in inputs for node in top.inputs[port]]
    for name in forced:
        kind = shared[name]
        todo += [(name, node) for port, nodes in kind.inputs.items() if port not in ("clk", "rst") for node in nodes]
        todo += [(name, node) for register in kind.registers for node in register.q]
    followed: set[int] = set()
    while todo:
        name, node = todo.pop()
        if flags[name][node] or node <= ONE:
            continue
        flags[name][node] = 1
        todo += [(name, user) for user in watches[name].users[node]]
        for other, targets in watches[name].others[node]:
            # All bits of a word lead to the same word.
            if id(targets) not in followed:
                followed.add(id(targets))
                todo += [(other, target) for target in targets]
    varying = {name: Varying(netlist, flags[name]) for name, netlist in netlists.items()}
    for name, netlist in netlists.items():
        for memory in netlist.memories:
            controls = [node for port in memory.reads for node in (*port.address, port.enable, port.reset)]
            controls += [node for port in memory.writes for node in (*port.address, *port.enable)]
            controls += [node for word in memory.asynchronous for node in _address(netlist, word)]
            if varying[name].any(controls):
                raise UnsupportedDesign(f"The address or an enable of the memory {memory.name} differs between lanes")
    return varying


def _address(netlist: Netlist, word: list[int]) -> tuple[int, ...]:
    return netlist.graph.operands(word[0]) if word else ()


def _watch(name: str, netlist: Netlist, shared: dict[str, Netlist]) -> _Watch:
    watch = _Watch()
    graph = netlist.graph
    for node in range(len(graph)):
        for operand in graph.operands(node):
            watch.users[operand].append(node)
    for register in netlist.registers:
        for node in {*register.d, register.enable, register.reset}:
            watch.others[node].append((name, register.q))
    for memory in netlist.memories:
        outputs = [node for port in memory.reads for node in port.q] + [node for word in memory.asynchronous for node in word]
        for port in memory.writes:
            for node in set(port.data):
                watch.others[node].append((name, outputs))
    return watch


def next_state(netlist: Netlist, varying: Varying, register: Register) -> tuple[int, list[int]]:
    """Return the guard of a register, a node that is the same in all lanes, and what it takes when that is 1."""
    graph = netlist.graph
    guard, values = ONE, register.d
    if register.enable != ONE:
        if varying(register.enable) or varying(register.reset) or not varying.any(register.q):
            values = [graph.mux(register.enable, q, d) for q, d in zip(register.q, values, strict=True)]
        else:
            guard = register.enable
    if register.reset != ZERO:
        resets = [ONE if bit else ZERO for bit in register.reset_value]
        values = [graph.mux(register.reset, d, r) for d, r in zip(values, resets, strict=True)]
        if guard != ONE:
            guard = graph.or_(guard, register.reset)
    return guard, values
