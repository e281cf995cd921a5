"""The instances of shared modules in a generated simulation: where their state is, what leads to them, and what they hand on."""

from __future__ import annotations

from dataclasses import dataclass

from sim.lanes.gates import ONE
from sim.lanes.kinds import Kind
from sim.lanes.layout import MOST_VECTORS, PASSING, Layout
from sim.lanes.netlist import Instance
from sim.lanes.schedule import Unit
from sim.lanes.skew import Skew

__all__ = ["Instances", "PlacedInstance"]


@dataclass(eq=False)
class PlacedInstance:
    """An instance with the places of its state: of vectors that are used in every cycle, of guarded ones, of scalars.

    ``handed`` are the places of what it hands on, ``owner`` is the number of the unit that renews it.
    """

    instance: Instance
    kind: Kind
    owner: int
    hot: int
    cold: int
    bits: int
    handed: list[int]


class Instances:
    """All instances of a design.

    Parameters
    ----------
    generator
        What places and units are added to.
    kinds : dict
        The modules by name.
    skew : Skew or None
        The order in which the instances follow each other, if there is one.

    Members
    -------
    placed : the instances, in the order of the netlist.
    triggers : flags of which one is set whenever anything that is handed on may have to be computed.
    """

    def __init__(self, generator, kinds: dict[str, Kind], skew: Skew | None) -> None:
        self.skew = skew
        self._generator = generator
        self._layout: Layout = generator.layout
        self._kinds = kinds
        if skew is not None:
            # What only instances read that follow needs no place that it keeps.
            for name, kind in kinds.items():
                handed = [port for port in kind.netlist.outputs if kind.can_hand_on(port)]
                kinds[name] = Kind(kind.name, kind.netlist, kind.varying, handed=handed)
        self.placed: list[PlacedInstance] = []
        self.triggers: set[int] = set()

    def place(self) -> None:
        """Give all instances and their outputs places."""
        layout, initialise = self._layout, self._generator.initialise
        instances = self._generator.top.instances
        # What is used in every cycle lies together.
        hot = [layout.allocate(self._kinds[instance.kind].hot) for instance in instances]
        for instance, vectors in zip(instances, hot, strict=True):
            kind = self._kinds[instance.kind]
            cold, bits = layout.allocate(kind.vectors - kind.hot), layout.allocate_bits(kind.bits)
            layout.flags += [bits + flag for flag in kind.flags]
            initialise(vectors, kind.init[: kind.hot], vector=True)
            initialise(cold, kind.init[kind.hot :], vector=True)
            initialise(bits, kind.bit_init, vector=False)
            self.placed.append(PlacedInstance(instance, kind, self._generator.new_owner(), vectors, cold, bits, []))
        for placed in self.placed:
            for port, nodes in placed.instance.outputs.items():
                if port not in placed.kind.handed:
                    self._home(placed, placed.kind.netlist.outputs[port], nodes)
            for port in placed.kind.handed:
                self._hand_on(placed, port)
        for node, origin in self.skew.same if self.skew else ():
            layout.alias(node, origin)

    def _home(self, placed: PlacedInstance, word: list[int], nodes: list[int]) -> None:
        layout, kind = self._layout, placed.kind
        for inner, outer in zip(word, nodes, strict=True):
            if inner in kind.vector_at:
                place = kind.vector_at[inner]
                layout.changed[outer] = placed.bits + kind.flag_at[inner]
                layout.vector[outer] = placed.hot + place if place < kind.hot else placed.cold + place - kind.hot
            elif inner in kind.bit_at:
                layout.bit[outer] = placed.bits + kind.bit_at[inner]
            else:
                layout.bit[outer] = layout.allocate_bits(1)
                self._generator.initialise(layout.bit[outer], [inner], vector=False)
            layout.owner[outer] = placed.owner

    def _hand_on(self, placed: PlacedInstance, port: str) -> None:
        layout, nodes = self._layout, placed.instance.outputs[port]
        lasting = not self.skew.seen.isdisjoint(nodes)
        place = layout.allocate(len(nodes)) if lasting else layout.passing(len(nodes))
        placed.handed.append(place)
        flag = placed.bits + placed.kind.flag_at[placed.kind.netlist.outputs[port][0]]
        layout.put(nodes, place, placed.owner)
        layout.changed.update(dict.fromkeys(nodes, flag))

    def add_units(self) -> None:
        """Add the units that renew the instances."""
        owner = {placed.instance.name: placed.owner for placed in self.placed}
        units: dict[str, Unit] = {}
        for placed in self.placed:
            name = placed.instance.name
            units[name] = self._unit(placed, {owner[other] for other in self.skew.after[name]} if self.skew else set())
        for name, unit in units.items():
            unit.after += [units[other] for other in self.skew.after[name]] if self.skew else []

    def _unit(self, placed: PlacedInstance, earlier: set[int]) -> Unit:
        """``earlier`` are the owners whose new state the instance reads."""
        layout, kind, inputs = self._layout, placed.kind, placed.instance.inputs
        code = {"placed": placed, "ports": [], "if_changed": []}

        def follows(port: str) -> bool:
            return any(layout.owner.get(node) in earlier for node in inputs[port])

        def wire(*, own: bool) -> list[int]:
            code["ports"], code["if_changed"] = [], []
            widths: dict[int, int] = {}
            for port in kind.vector_ports + kind.bit_ports:
                vector = port in kind.vector_ports
                place, reads = self._run(inputs[port], vector, placed.owner, own=own and not follows(port))
                code["ports"].append(place)
                if vector:
                    code["if_changed"].append(layout.flag_of(inputs[port], place))
                for read in reads - earlier:
                    widths[read] = widths.get(read, 0) + len(inputs[port]) * (8 if vector else 1)
            return sorted(widths, key=widths.__getitem__)

        unit = self._generator.unit("instance", placed.owner, wire(own=False), code, lambda: wire(own=True))
        triggers = kind.triggers()
        if triggers is None:
            self.triggers.add(layout.always)
        for trigger in triggers or ():
            if isinstance(trigger, int):
                self.triggers.add(placed.bits + trigger)
            elif not follows(trigger):
                self.triggers.add(code["if_changed"][kind.vector_ports.index(trigger)])
        return unit

    def _run(self, nodes: list[int], vector: bool, owner: int, *, own: bool) -> tuple[int, set[int]]:
        def run(own: bool) -> tuple[int, set[int]]:
            return self._layout.run(nodes, ONE, owner, own=own) if vector else self._layout.bit_run(nodes, own=own)

        place, reads = run(own)
        # An instance never sees its own state through two pointers.
        return run(True) if owner in reads else (place, reads)

    def place_handed(self, codes: list[dict]) -> None:
        """Give what is handed on a place from when it is made to when it is read for the last time; ``codes`` in their order."""

        def start(place: int) -> int:
            return place - (place - PASSING) % MOST_VECTORS

        last = {start(place): turn for turn, code in enumerate(codes) for place in code["ports"] if place >= PASSING}
        free: dict[int, list[int]] = {}
        real: dict[int, int] = {}
        for turn, code in enumerate(codes):
            placed = code["placed"]
            for place in placed.handed:
                if place >= PASSING:
                    width = self._layout.width_passing(place)
                    real[place] = free[width].pop() if free.get(width) else self._layout.allocate(width)
            placed.handed = [real.get(place, place) for place in placed.handed]
            read = {start(place) for place in code["ports"] if place >= PASSING}
            code["ports"] = [real[start(place)] + place - start(place) if place >= PASSING else place for place in code["ports"]]
            for place in {place for place in read if last[place] == turn}:
                free.setdefault(self._layout.width_passing(place), []).append(real[place])
