"""What is computed once for all lanes, what in every lane, where its bits are kept, and in which order they are renewed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sim.lanes.gates import ONE, ZERO, UnsupportedDesign
from sim.lanes.netlist import Netlist, Register

__all__ = ["Varying", "find_varying", "next_state", "readers_first"]


@dataclass(eq=False)
class Varying:
    """The nodes of a netlist whose value differs between lanes; nodes made later follow from their operands."""

    netlist: Netlist
    flags: bytearray

    def __call__(self, node: int) -> bool:
        if node >= len(self.flags):
            self._follow()
        return self.flags[node] == 1

    def any(self, nodes: list[int]) -> bool:
        self._follow()
        return any(map(self.flags.__getitem__, nodes))

    def note(self, node: int, value: bool) -> None:
        """Say of a new node without operands whether it differs."""
        self._follow()
        self.flags[node] = value

    def _follow(self) -> None:
        graph = self.netlist.graph
        for new in range(len(self.flags), len(graph)):
            self.flags.append(any(self.flags[operand] for operand in graph.operands(new)))


class _Marks:
    """The flags of one netlist while it is being found out what varies: gates, registers and memories pass it on."""

    def __init__(self, netlist: Netlist) -> None:
        self.flags = bytearray(len(netlist.graph))
        self._users: dict[int, list[int]] = defaultdict(list)
        #: Words that vary as soon as a node does; the nodes with the same word share it, and who comes first empties it.
        self._words: dict[int, list[list[int]]] = defaultdict(list)
        for node in netlist.graph.gates():
            for operand in netlist.graph.operands(node):
                self._users[operand].append(node)
        for register in netlist.registers:
            self._lead({*register.d, register.enable, register.reset}, register.q)
        for memory in netlist.memories:
            outputs = [node for port in memory.reads for node in port.q] + [node for word in memory.asynchronous for node in word]
            self._lead({node for port in memory.writes for node in port.data}, outputs)

    def _lead(self, nodes: set[int], outputs: list[int]) -> None:
        word = list(outputs)
        for node in nodes:
            self._words[node].append(word)

    def mark(self, nodes: Iterable[int]) -> None:
        """Note that these nodes vary, and what follows from it inside the netlist."""
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if self.flags[node] or node <= ONE:
                continue
            self.flags[node] = 1
            todo += self._users.get(node, ())
            for word in self._words.get(node, ()):
                todo += word
                word.clear()


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
    marks = {name: _Marks(netlist) for name, netlist in netlists.items()}
    marks[TOP].mark(node for port in inputs for node in top.inputs[port])
    for name in forced:
        kind = shared[name]
        marks[name].mark(node for port, nodes in kind.inputs.items() if port not in ("clk", "rst") for node in nodes)
        marks[name].mark(node for register in kind.registers for node in register.q)
    links = _links(top, shared)
    waiting = len(links) + 1
    while len(links) < waiting:
        waiting = len(links)
        for link in list(links):
            source, nodes, target, word = link
            if any(map(marks[source].flags.__getitem__, nodes)):
                marks[target].mark(word)
                links.remove(link)
    flags = {name: found.flags for name, found in marks.items()}
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


def _links(top: Netlist, shared: dict[str, Netlist]) -> list[tuple[str, list[int], str, list[int]]]:
    """Return where variation crosses ports: from any of these nodes of a netlist to all of these of another.

    What varies in one instance of a module does in all.
    """
    links = []
    for name, kind in shared.items():
        instances = [instance for instance in top.instances if instance.kind == name]
        for port, word in kind.inputs.items():
            links.append((TOP, [node for instance in instances for node in instance.inputs.get(port, ())], name, word))
        for port, word in kind.outputs.items():
            outer = [instance.outputs[port] for instance in instances if port in instance.outputs]
            links += [(name, [node], TOP, list(nodes)) for node, nodes in zip(word, zip(*outer, strict=True), strict=False)]
    return links


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


def readers_first(reads: list[set[int]]) -> list[list[int]]:
    """Return indices in an order in which readers go before what they read; those that read each other in a circle are together.

    Parameters
    ----------
    reads : list of set of int
        What each index reads.
    """
    reach = []
    for start in range(len(reads)):
        seen, todo = set(), [start]
        while todo:
            new = reads[todo.pop()] - seen
            seen |= new
            todo.extend(new)
        reach.append(seen)
    groups: list[list[int]] = []
    placed: set[int] = set()
    while len(placed) < len(reads):
        for index in range(len(reads)):
            circle = {index} | {other for other in reach[index] if index in reach[other]}
            readers = {other for other in range(len(reads)) if other not in circle and reads[other] & circle}
            if index not in placed and readers <= placed:
                groups.append(sorted(circle))
                placed |= circle
                break
    return groups
