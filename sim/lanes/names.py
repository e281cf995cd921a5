"""Names of the nets of a module, for the results of fault simulations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.lanes.gates import ONE, Graph

__all__ = ["name_nets"]


def name_nets(graph: Graph, described: Mapping[int, str], goals: Iterable[tuple[str, int]]) -> dict[int, str]:
    """Return a name of its own for every net that the goals depend on.

    A net keeps the name that the hardware description gives it (``psum[3]``, ``multiplier.pp_5_0``). Any other is called by the
    first of those, or else of the goals, whose logic it is part of, and a number in the order of the data flow
    (``multiplier.o[14]/0``, ``psum.d[3]/1``). So names do not depend on how a synthesis program numbers what it makes.

    Parameters
    ----------
    described : mapping
        The names that are given, by node.
    goals : iterable of (name, node)
        What else to name nets by, such as the inputs of registers.
    """
    names = dict(described)
    for stem, goal in [*((names[node], node) for node in sorted(described)), *goals]:
        cone: set[int] = set()
        todo = [goal] if goal not in names else list(graph.operands(goal))
        while todo:
            node = todo.pop()
            if node > ONE and node not in names and node not in cone:
                cone.add(node)
                todo.extend(graph.operands(node))
        names |= {node: f"{stem}/{number}" for number, node in enumerate(sorted(cone))}
    return names
