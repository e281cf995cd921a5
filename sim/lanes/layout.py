"""Where the bits of a design live: vectors (a bit per lane) and scalars, and the places that values are gathered in."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.lanes.gates import ONE, ZERO
from sim.lanes.plan import Varying

__all__ = ["MOST_VECTORS", "PASSING", "WINDOW", "Copy", "Layout", "Root"]

#: Places from here on are windows: what is seen in one is elsewhere after every edge. Each has so many places of its own.
WINDOW, MOST_VECTORS = 1 << 28, 1 << 10
#: From here on, what is handed from one instance to the next: it gets a place once their order is known.
PASSING = 1 << 30


@dataclass(eq=False)
class Root:
    """A node that is computed into a place of its own: for whom, and the guards under which somebody needs it."""

    node: int
    place: int
    owner: int
    guards: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Copy:
    """``count`` vectors from one place to another, under a guard."""

    guard: int
    target: int
    source: int
    count: int


class Layout:
    """Allocates places and remembers what must be computed or copied into them before the clock edge.

    Place 0 holds zeros and place 1 ones. ``vector`` and ``bit`` are the places of nodes that hold state or enter from outside;
    ``owner`` says, by node, which unit changes it at the edge; ``changed`` the place of a flag, whether the last edge (of an input:
    the outside since then) may have changed it. What hangs only on what has not changed need not be renewed. Two scalars are such
    flags for what has none: ``always`` is 1, ``fresh`` at the first edge only. ``windows`` is the number of windows (places from
    ``WINDOW`` on).
    """

    def __init__(self, varying: Varying) -> None:
        self.varying = varying
        self.vectors = 2
        self.bits = 2
        self.windows = 0
        self._passing: list[int] = []
        self.fresh, self.always = 0, 1
        self.vector: dict[int, int] = {}
        self.bit: dict[int, int] = {}
        self.owner: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.flags: list[int] = [self.fresh, self.always]
        self.roots: dict[int, Root] = {}
        self.broadcasts: dict[int, int] = {}
        self.gathers: list[Copy] = []
        self.bit_roots: list[tuple[int, int]] = []
        self._zeros: dict[int, int] = {}
        self._copies: dict[int, int] = {}

    def allocate(self, count: int) -> int:
        self.vectors += count
        return self.vectors - count

    def allocate_bits(self, count: int) -> int:
        self.bits += count
        return self.bits - count

    def home(self, nodes: list[int], owner: int | None = None) -> int:
        """Give nodes that hold state adjacent places, as vectors or scalars by what they are."""
        start = self.allocate(len(nodes)) if self.varying.any(nodes) else self.allocate_bits(len(nodes))
        self.put(nodes, start, owner)
        return start

    def put(self, nodes: list[int], start: int, owner: int | None = None) -> None:
        """Say that nodes that hold state are in adjacent places, of vectors or scalars by what they are."""
        places = self.vector if self.varying.any(nodes) else self.bit
        for index, node in enumerate(nodes):
            places[node] = start + index
            if owner is not None:
                self.owner[node] = owner

    def window(self, nodes: list[int], owner: int) -> int:
        """Give nodes that hold state a window, and return its number."""
        self.put(nodes, WINDOW + self.windows * MOST_VECTORS, owner)
        self.windows += 1
        return self.windows - 1

    def passing(self, count: int) -> int:
        """Return a place to be handed on, see ``PASSING``."""
        self._passing.append(count)
        return PASSING + (len(self._passing) - 1) * MOST_VECTORS

    def width_passing(self, place: int) -> int:
        """Return how many vectors a place that is handed on has."""
        return self._passing[(place - PASSING) // MOST_VECTORS]

    def alias(self, node: int, origin: int) -> None:
        """Let a node be where another is."""
        for places in (self.vector, self.bit, self.owner, self.changed):
            if origin in places:
                places[node] = places[origin]

    def flag(self, nodes: list[int]) -> int:
        """Return the place of a new flag for nodes that change together."""
        place = self.allocate_bits(1)
        self.flags.append(place)
        self.changed.update(dict.fromkeys(nodes, place))
        return place

    def flag_of(self, nodes: list[int], run: int) -> int:
        """Return the flag of all of these nodes, read at the edge from where ``run`` has put them."""
        if all(node <= ONE for node in nodes):
            # Constants have not changed, but at the first edge nobody has taken them yet.
            return self.fresh
        flags = {self.changed.get(node) for node in nodes}
        # A copy was made before the edge: by the time that it is read, the flag may tell of this edge.
        if len(flags) > 1 or None in flags or run != self.vector[nodes[0]]:
            return self.always
        return flags.pop()

    def place(self, node: int, guard: int, owner: int) -> int:
        """Return where a node's vector is to be found at the edge, computed for this owner if need be."""
        if node <= ONE:
            return node
        if node in self.vector:
            return self.vector[node]
        if not self.varying(node):
            if node not in self.broadcasts:
                self.broadcasts[node] = self.allocate(1)
            return self.broadcasts[node]
        if node not in self.roots:
            self.roots[node] = Root(node, self.allocate(1), owner)
        self.roots[node].guards.add(guard)
        return self.roots[node].place

    def run(self, nodes: list[int], guard: int, owner: int, *, own: bool = False) -> tuple[int, set[int]]:
        """Return a place from which the nodes' vectors follow each other, and the owners whose state is read there at the edge.

        With ``own`` they are copied, so that nobody's state is read.
        """
        if not own and all(node == ZERO for node in nodes):
            return self._zero_run(len(nodes)), set()
        places = [self.place(node, guard, owner) for node in nodes]
        if not own and all(place == places[0] + index for index, place in enumerate(places)):
            return places[0], {self.owner[node] for node in nodes if node in self.owner}
        target = self.allocate(len(nodes))
        start = 0
        for index in range(1, len(places) + 1):
            if index == len(places) or places[index] != places[index - 1] + 1:
                self.gathers.append(Copy(guard, target + start, places[start], index - start))
                start = index
        return target, set()

    def bit_run(self, nodes: list[int], *, own: bool = False) -> tuple[int, set[int]]:
        """The same for scalars."""
        places = [self.bit.get(node) for node in nodes]
        adjacent = all(place is not None and place == places[0] + index for index, place in enumerate(places))
        if not own and adjacent:
            return places[0], {self.owner[node] for node in nodes if node in self.owner}
        target = self.allocate_bits(len(nodes))
        self.bit_roots += [(target + index, node) for index, node in enumerate(nodes)]
        return target, set()

    def scalar(self, node: int) -> int:
        """Return where a scalar node is to be found from the end of the control on, also while owners change their state."""
        if node in self.bit and node not in self.owner:
            return self.bit[node]
        if node not in self._copies:
            self._copies[node] = self.allocate_bits(1)
            self.bit_roots.append((self._copies[node], node))
        return self._copies[node]

    def _zero_run(self, count: int) -> int:
        # Never written; one region serves all.
        if count == 1:
            return ZERO
        if count not in self._zeros:
            self._zeros[count] = self.allocate(count)
        return self._zeros[count]
