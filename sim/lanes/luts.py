"""Covering gates by three-input look-ups, what AVX-512 computes in one instruction.

Ref: A. Mishchenko, S. Chatterjee, R. Brayton, "Improvements to technology mapping for LUT-based FPGAs",
IEEE Trans. CAD 26(2), 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.lanes.gates import ONE, Graph

__all__ = ["cover"]

INPUTS = 3
KEPT_CUTS = 10
#: Truth tables of the inputs; bit 4 * x + 2 * y + z of a table is the value for these inputs, as in vpternlog.
TABLES = (0xF0, 0xCC, 0xAA)

Cut = tuple[int, ...]


def cover(graph: Graph, roots: Iterable[int], is_leaf: Callable[[int], bool]) -> dict[int, tuple[Cut, int]]:
    """Return the look-ups that compute the roots from the leaves: by node the nodes that it looks up (up to 3) and its truth table.

    Few of them: the cuts are chosen by area flow, then one by one by what they add to the whole.
    """
    order = _cone(graph, roots, is_leaf)
    inside = set(order)
    uses = dict.fromkeys(order, 0)
    for node in order:
        for operand in graph.operands(node):
            if operand in inside:
                uses[operand] += 1
    for root in roots:
        if root in inside:
            uses[root] += 1
    cuts: dict[int, list[Cut]] = {}
    flow: dict[int, float] = {}
    best: dict[int, Cut] = {}
    for node in order:
        found = {()}
        for operand in graph.operands(node):
            if operand <= ONE:
                continue
            choices = [*cuts.get(operand, ()), (operand,)]
            found = {union for cut in found for choice in choices if len(union := tuple(sorted({*cut, *choice}))) <= INPUTS}
        ranked = sorted(found, key=lambda cut: (sum(flow.get(leaf, 0) for leaf in cut), len(cut), cut))
        cuts[node] = ranked[:KEPT_CUTS]
        best[node] = ranked[0]
        flow[node] = (1 + sum(flow.get(leaf, 0) for leaf in ranked[0])) / max(uses[node], 1)
    _recover_area(order, inside, [root for root in roots if root in inside], cuts, best)
    chosen = {}
    todo = [root for root in roots if root in inside]
    while todo:
        node = todo.pop()
        if node not in chosen:
            chosen[node] = (best[node], _table(graph, node, best[node]))
            todo.extend(leaf for leaf in best[node] if leaf in inside)
    return chosen


def _cone(graph: Graph, roots: Iterable[int], is_leaf: Callable[[int], bool]) -> list[int]:
    found, todo = set(), list(roots)
    while todo:
        node = todo.pop()
        if node > ONE and node not in found and not is_leaf(node):
            found.add(node)
            todo.extend(graph.operands(node))
    return sorted(found)


def _recover_area(order: list[int], inside: set[int], roots: list[int], cuts: dict[int, list[Cut]], best: dict[int, Cut]) -> None:
    """Replace cuts by others that need fewer look-ups in all."""
    references = dict.fromkeys(order, 0)

    def take(node: int) -> int:
        """Count one look-up and those that only it needs."""
        added = 1
        for leaf in best[node]:
            if leaf in inside:
                if not references[leaf]:
                    added += take(leaf)
                references[leaf] += 1
        return added

    def drop(node: int) -> None:
        for leaf in best[node]:
            if leaf in inside:
                references[leaf] -= 1
                if not references[leaf]:
                    drop(leaf)

    for root in roots:
        if not references[root]:
            take(root)
        references[root] += 1
    for _ in range(2):
        for node in order:
            if not references[node]:
                continue
            drop(node)
            costs = []
            for cut in cuts[node]:
                best[node] = cut
                costs.append((take(node), len(cut), cut))
                drop(node)
            best[node] = min(costs)[2]
            take(node)


def _table(graph: Graph, goal: int, cut: Cut) -> int:
    return graph.evaluate([goal], dict(zip(cut, TABLES, strict=False)), ones=0xFF)[0]
