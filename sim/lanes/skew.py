"""A systolic array in the order of its data: instances run one after the other, each in a time of its own (retiming).

In the design an instance sees in a cycle what its neighbour's registers have taken in the cycle before. Where it runs after that
neighbour and sees what these have just taken, the neighbour has run for the cycle before: it *lags*. So a whole array can run in
the order in which sums and operations flow through it, every word that one instance makes for the next still at hand; and the
triangles of registers that skew inputs and outputs turn into lines of one length at the inputs. Nothing else changes: whatever
enters an instance is delayed by its lag, and of the registers behind an instance one is left out for each cycle that it lags.

C. E. Leiserson, J. B. Saxe, Retiming Synchronous Circuitry, Algorithmica 6 (1991).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from sim.lanes.gates import ONE, ZERO
from sim.lanes.kinds import Kind
from sim.lanes.netlist import Instance, Netlist, Register
from sim.lanes.plan import Varying

__all__ = ["Skew", "skew_instances"]


@dataclass(eq=False)
class Skew:
    """What has been found out and changed, by names of instances and nodes of the netlist.

    ``after`` are the instances that each instance must follow; ``same`` the nodes that registers left out had, with the nodes of
    instances whose value they have; ``seen`` the nodes of instances that not only instances read.
    """

    after: dict[str, list[str]]
    same: list[tuple[int, int]]
    seen: set[int]


def skew_instances(top: Netlist, kinds: dict[str, Kind], varying: Varying) -> Skew | None:
    """Let the instances of a design lag, if that is possible and right from power-up on; else leave it as it is and return None.

    It is possible if every way through the instances and the registers behind them leads to the same lags. It is right if the
    state in which all begin, zeros, stays as it is while zeros come in: then it does not matter that an instance runs before its
    first cycle.

    Parameters
    ----------
    top : Netlist
        Its registers and the inputs of its instances are changed.
    """
    if not top.instances or any(_stirs(kind.netlist) for kind in kinds.values()):
        return None
    maker = {node: instance for instance in top.instances for nodes in instance.outputs.values() for node in nodes}
    before = {instance.name: _makers(instance, maker, kinds) for instance in top.instances}
    if any(found is None for found in before.values()):
        return None
    lags = _lags(top.instances, before)
    if lags is None or not any(lags.values()):
        return None
    shortened = _shortened(top, {node: lags[instance.name] for node, instance in maker.items()})
    if shortened is None:
        return None
    top.registers, same, used = shortened
    delays = _Delays(top, varying)
    for instance in top.instances:
        for port, nodes in instance.inputs.items():
            if port != "clk":
                outside = tuple(node for node in nodes if node > ONE and node not in maker)
                delayed = dict(zip(outside, delays.after(outside, lags[instance.name]), strict=True))
                instance.inputs[port] = [delayed.get(node, node) for node in nodes]
    return Skew({name: [instance.name for instance in found] for name, found in before.items()}, same, used)


def _stirs(netlist: Netlist) -> bool:
    """Whether the registers of a module do not all begin as zeros and stay so while zeros come in."""
    nodes = [node for register in netlist.registers for node in (register.enable, register.reset, *register.d)]
    value = dict(zip(nodes, netlist.graph.evaluate(nodes), strict=True))
    for register in netlist.registers:
        taken = register.reset_value if value[register.reset] else []
        if value[register.enable] and not value[register.reset]:
            taken = [value[node] for node in register.d]
        if any(taken) or any(register.init):
            return True
    return False


def _makers(instance: Instance, maker: dict[int, Instance], kinds: dict[str, Kind]) -> list[Instance] | None:
    """Return the instances whose outputs lead right to one, the widest last; None if a port could not be read in place."""
    widths: dict[Instance, int] = {}
    for port, nodes in instance.inputs.items():
        if ONE in nodes and port != "clk":
            return None
        sources = {maker.get(node) for node in nodes}
        if sources == {None} or not nodes:
            continue
        source = maker.get(nodes[0])
        if len(sources) > 1 or source is None or source is instance or not _adjacent(nodes, source, kinds[source.kind]):
            return None
        widths[source] = max(len(nodes), widths.get(source, 0))
    return sorted(widths, key=widths.__getitem__)


def _adjacent(nodes: list[int], source: Instance, kind: Kind) -> bool:
    """Whether what an instance has for these outputs of another lies together."""
    words = [(word, kind.netlist.outputs[port]) for port, word in source.outputs.items()]
    inner = {outer: node for outside, inside in words for outer, node in zip(outside, inside, strict=True)}
    for places, parts in ((kind.vector_at, kind.hot), (kind.bit_at, 0)):
        found = [places.get(inner[node]) for node in nodes]
        if None not in found:
            together = all(place == found[0] + index for index, place in enumerate(found))
            return together and (found[0] < parts) == (found[-1] < parts)
    return False


def _lags(instances: list[Instance], before: dict[str, list[Instance]]) -> dict[str, int] | None:
    """Return by how many cycles each instance lags, those at the end of the flow not at all; None where two ways differ."""
    steps: dict[str, list[tuple[str, int]]] = {instance.name: [] for instance in instances}
    for name, sources in before.items():
        for source in sources:
            steps[source.name].append((name, 1))
            steps[name].append((source.name, -1))
    depth: dict[str, int] = {}
    lags: dict[str, int] = {}
    for instance in instances:
        if instance.name in depth:
            continue
        depth[instance.name] = 0
        part, todo = [instance.name], deque([instance.name])
        while todo:
            name = todo.popleft()
            for other, step in steps[name]:
                if other not in depth:
                    depth[other] = depth[name] + step
                    part.append(other)
                    todo.append(other)
                elif depth[other] != depth[name] + step:
                    return None
        deepest = max(depth[name] for name in part)
        lags |= {name: deepest - depth[name] for name in part}
    return lags


def _delays_only(register: Register) -> bool:
    return register.enable == ONE and register.reset == ZERO and not any(register.init)


def _shortened(top: Netlist, lag: dict[int, int]) -> tuple[list[Register], list[tuple[int, int]], set[int]] | None:
    """Return the registers without those that make up for the lag of the instances before them, ``same`` and ``seen`` of ``Skew``.

    None if it cannot be made up for. ``lag`` has the outputs of the instances.
    """
    direct = set(lag)
    stands_for = {node: node for node in lag}
    readers: dict[int, list[Register]] = {}
    for register in top.registers:
        if _delays_only(register):
            for node in register.d:
                readers.setdefault(node, []).append(register)
    out: set[Register] = set()
    todo = deque(node for node, late in lag.items() if late)
    while todo:
        for register in readers.get(todo.popleft(), ()):
            if register in out:
                continue
            late = {lag.get(node, 0) for node in register.d}
            if len(late) > 1:
                return None
            out.add(register)
            for q, d in zip(register.q, register.d, strict=True):
                lag[q], stands_for[q] = max(late) - 1, stands_for[d]
                if lag[q]:
                    todo.append(q)
    remaining = replace(top, registers=[register for register in top.registers if register not in out])
    used = set(remaining.uses(instances=False))
    # Right from another instance a word comes in time.
    used.update(node for instance in top.instances for nodes in instance.inputs.values() for node in nodes if node not in direct)
    if any(lag.get(node, 0) for node in used):
        return None
    same = [(node, origin) for node, origin in stands_for.items() if node != origin]
    return remaining.registers, same, {stands_for.get(node, node) for node in used}


class _Delays:
    """Words of earlier cycles: of registers that are there, and of new ones."""

    def __init__(self, top: Netlist, varying: Varying) -> None:
        self._top = top
        self._varying = varying
        self._next = {tuple(register.d): tuple(register.q) for register in top.registers if _delays_only(register)}
        self._made = 0

    def after(self, word: tuple[int, ...], cycles: int) -> tuple[int, ...]:
        """Return what a word was some cycles ago."""
        for _ in range(cycles if word else 0):
            if word not in self._next:
                self._next[word] = self._register(word)
            word = self._next[word]
        return word

    def _register(self, word: tuple[int, ...]) -> tuple[int, ...]:
        graph, varying = self._top.graph, self._varying
        q = [graph.source(("lag", self._made, index)) for index in range(len(word))]
        for node, source in zip(q, word, strict=True):
            varying.note(node, varying(source))
        zeros = [0] * len(word)
        self._top.registers.append(Register(f"lag{self._made}", q, list(word), ONE, ZERO, zeros, zeros))
        self._made += 1
        return tuple(q)
