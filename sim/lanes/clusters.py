"""Gates that differ between lanes, cut into connected clusters; clusters of the same structure share one C function."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sim.lanes.emitter import Emitter
from sim.lanes.gates import ONE
from sim.lanes.layout import MOST_VECTORS, WINDOW, Layout, Root
from sim.lanes.plan import Varying

__all__ = ["ClusterClass", "find_clusters"]


@dataclass(eq=False)
class ClusterClass:
    """A function, and the parameters of each of its calls: the guard, where vectors start, where scalars are."""

    name: str
    source: str
    calls: list[list[int]]


def find_clusters(varying: Varying, layout: Layout) -> list[ClusterClass]:
    """Return what computes every root of the layout, the vectors first in need of it."""
    graph = varying.netlist.graph
    member = {}
    parent: dict[int, int] = {}

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def is_leaf(node: int) -> bool:
        return node <= ONE or not varying(node) or node in layout.vector

    todo = list(layout.roots)
    for node in todo:
        parent.setdefault(node, node)
    while todo:
        node = todo.pop()
        if node in member:
            continue
        member[node] = True
        for operand in graph.operands(node):
            if not is_leaf(operand):
                parent.setdefault(operand, operand)
                parent[find(operand)] = find(node)
                todo.append(operand)
    groups: dict[int, list[Root]] = defaultdict(list)
    for root in layout.roots.values():
        groups[find(root.node)].append(root)
    classes: dict[tuple, ClusterClass] = {}
    for roots in groups.values():
        cluster = _Cluster(varying, layout, roots)
        key = cluster.structure()
        found = classes.get(key)
        if found is None:
            name = f"cluster{len(classes)}"
            text = [f"static void {name}(const Simulation *sim, const int32_t *__restrict t) {{", cluster.body(), "}"]
            found = classes[key] = ClusterClass(name, "\n".join(text), [])
        guards = {guard for root in roots for guard in root.guards}
        found.calls.append([_guard(layout, guards), *cluster.parameters])
    return list(classes.values())


def _guard(layout: Layout, guards: set[int]) -> int:
    if ONE in guards:
        return -1
    graph = layout.varying.netlist.graph
    return layout.scalar(graph.any(sorted(guards)))


class _Cluster:
    """The gates of a cluster, and the parameters ``t[1]``... of its function: where its leaves and its outputs are."""

    def __init__(self, varying: Varying, layout: Layout, roots: list[Root]) -> None:
        self.varying = varying
        self.layout = layout
        self.graph = graph = varying.netlist.graph
        self.roots = roots
        self.gates: list[int] = []
        self.parameters: list[int] = []
        #: By family of leaves, or owner of outputs: the number of its parameter and the place that this is.
        self._base: dict[object, tuple[int, int]] = {}
        self._scalars: dict[int, int] = {}
        places: dict[object, list[int]] = defaultdict(list)
        scalars = []
        seen: set[int] = set()
        stack = [root.node for root in reversed(roots)]
        while stack:
            node = stack.pop()
            if node <= ONE or node in seen:
                continue
            seen.add(node)
            if node in layout.vector:
                # One parameter for all bits that belong together: the lowest place of them.
                places[self._family(node)].append(layout.vector[node])
            elif not varying(node):
                scalars.append(node)
            else:
                self.gates.append(node)
                stack.extend(reversed(graph.operands(node)))
        for root in roots:
            places["out", root.owner].append(root.place)
        for key, values in places.items():
            self.parameters.append(min(values))
            self._base[key] = len(self.parameters), min(values)
        for node in scalars:
            self.parameters.append(layout.scalar(node))
            self._scalars[node] = len(self.parameters)

    def structure(self) -> tuple:
        """Return what the text of the function depends on: clusters in which it is the same can share one."""
        number = {node: index for index, node in enumerate(self.gates)}

        def name(node: int) -> int | str | None:
            # Constants are numbered apart from gates.
            return number[node] if node in number else node - 2 if node <= ONE else self._load(node)

        gates = tuple((self.graph.op[node], *map(name, self.graph.operands(node))) for node in self.gates)
        return gates, tuple((number[root.node], self._output(root)) for root in self.roots)

    def body(self) -> str:
        """Return the body of the function."""

        def lines(*, ternary: bool) -> str:
            emitter = Emitter(self.varying, self._load, ternary=ternary)
            emitter.prepare(root.node for root in self.roots)
            for root in self.roots:
                emitter.lines.append(f"{self._output(root)} = {emitter.vector(root.node)};")
            return "\n".join(emitter.lines)

        bases = [f"V *const p{index} = at(sim, t[{index}]);" for index, _ in self._base.values()]
        text = ["const uint8_t *const b = sim->b; (void)b;", *bases]
        return "\n".join([*text, "#ifdef LOOKUP", lines(ternary=True), "#else", lines(ternary=False), "#endif"])

    def _output(self, root: Root) -> str:
        index, start = self._base["out", root.owner]
        return f"p{index}[{root.place - start}]"

    def _load(self, node: int) -> str | None:
        if node in self.layout.vector:
            index, start = self._base[self._family(node)]
            return f"p{index}[{self.layout.vector[node] - start}]"
        return None if self.varying(node) else f"b[t[{self._scalars[node]}]]"

    def _family(self, node: int) -> object:
        """Return what a leaf's place is counted from: its register, port or memory, or the window in which it is seen."""
        place = self.layout.vector[node]
        if place >= WINDOW:
            return place // MOST_VECTORS
        tag = self.graph.args[node] if self.graph.op[node] == "src" else self.graph.args[node][0]
        return tag[:-1]
