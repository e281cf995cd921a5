"""Gates that differ between lanes, cut into connected clusters; clusters of the same structure share one C function."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from sim.lanes.emitter import Emitter
from sim.lanes.gates import ONE
from sim.lanes.layout import Layout, Root
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
    classes: dict[str, ClusterClass] = {}
    for roots in groups.values():
        body, parameters = _cluster(varying, layout, roots)
        found = classes.get(body)
        if found is None:
            name = f"cluster{len(classes)}"
            head = f"static void {name}(V *__restrict s, const uint8_t *__restrict b, const int32_t *__restrict t)"
            found = classes[body] = ClusterClass(name, f"{head} {{\n{body}\n}}", [])
        guards = {guard for root in roots for guard in root.guards}
        found.calls.append([_guard(layout, guards), *parameters])
    return list(classes.values())


def _guard(layout: Layout, guards: set[int]) -> int:
    if ONE in guards:
        return -1
    graph = layout.varying.netlist.graph
    return layout.scalar(graph.any(sorted(guards)))


def _cluster(varying: Varying, layout: Layout, roots: list[Root]) -> tuple[str, list[int]]:
    """Return the body of a cluster's function in terms of its parameters ``t[1]``..., and these."""
    graph = varying.netlist.graph
    leaves: dict[object, list[int]] = defaultdict(list)
    order: list[int] = []
    seen: set[int] = set()
    stack = [root.node for root in reversed(roots)]
    while stack:
        node = stack.pop()
        if node <= ONE or node in seen:
            continue
        seen.add(node)
        if node in layout.vector or not varying(node):
            order.append(node)
        else:
            stack.extend(reversed(graph.operands(node)))
    # One parameter for all bits that belong together: the lowest place of them.
    for node in order:
        if varying(node):
            leaves[_family(graph, layout, node)].append(layout.vector[node])
    outputs: dict[int, list[int]] = defaultdict(list)
    for root in roots:
        outputs[root.owner].append(root.place)
    parameters: list[int] = []
    base: dict[object, tuple[int, int]] = {}
    for key, places in [*leaves.items(), *((("out", owner), places) for owner, places in outputs.items())]:
        base[key] = (len(parameters) + 1, min(places))
        parameters.append(min(places))
    scalars: dict[int, int] = {}
    for node in order:
        if not varying(node):
            parameters.append(layout.scalar(node))
            scalars[node] = len(parameters)

    def load(node: int) -> str | None:
        if node in layout.vector:
            index, start = base[_family(graph, layout, node)]
            return f"s[t[{index}] + {layout.vector[node] - start}]"
        return None if varying(node) else f"b[t[{scalars[node]}]]"

    def body(*, ternary: bool) -> str:
        emitter = Emitter(varying, load, ternary=ternary)
        emitter.prepare(root.node for root in roots)
        for root in roots:
            index, start = base[("out", root.owner)]
            store = f"s[t[{index}] + {root.place - start}] = {emitter.vector(root.node)};"
            emitter.lines.append(store)
        return _renumbered("\n".join(emitter.lines))

    return f"#ifdef LOOKUP\n{body(ternary=True)}\n#else\n{body(ternary=False)}\n#endif", parameters


def _family(graph, layout: Layout, node: int) -> object:
    """Return what a leaf's place is counted from: its register, port or memory."""
    tag = graph.args[node] if graph.op[node] == "src" else graph.args[node][0]
    return tag[:-1]


def _renumbered(body: str) -> str:
    """Return the text with its nodes numbered in the order of appearance, so that equal structures have equal texts."""
    numbers: dict[str, int] = {}
    return re.sub(r"\b([nm])(\d+)\b", lambda match: f"{match[1]}{numbers.setdefault(match[2], len(numbers))}", body)
