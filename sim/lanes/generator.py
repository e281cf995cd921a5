"""From a netlist to C: places for its state, the control as scalars, clusters and instances as vectors, and the clock edge."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sim.lanes.clusters import find_clusters
from sim.lanes.delays import Line, find_lines, split_registers
from sim.lanes.emitter import Emitter
from sim.lanes.gates import ONE, ZERO, UnsupportedDesign
from sim.lanes.instances import Instances
from sim.lanes.kinds import Kind
from sim.lanes.layout import WINDOW, Layout
from sim.lanes.netlist import Memory, Netlist, ReadPort, Register, WritePort
from sim.lanes.plan import TOP, find_varying, next_state
from sim.lanes.schedule import Unit, ordered
from sim.lanes.skew import skew_instances

__all__ = ["Generated", "Port", "generate"]

ALWAYS = -1


@dataclass(frozen=True)
class Port:
    """A port of the generated simulation: ``width`` adjacent places, of vectors or of scalars.

    ``changed`` is the scalar that must be 1 at an edge when a varying input may have changed since the last one.
    """

    name: str
    is_input: bool
    varying: bool
    place: int
    width: int
    changed: int | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """The C text of a design, its ports, and for each instance of a shared module its number of place; net names by module."""

    source: str
    ports: dict[str, Port]
    instances: dict[str, int]
    net_names: dict[str, list[str]]


def generate(
    top: Netlist, varying_inputs: set[str], shared: dict[str, Netlist], *, forced: frozenset[str] = frozenset()
) -> Generated:
    """Return the C of a design.

    Parameters
    ----------
    varying_inputs : set of str
        The inputs that differ between lanes; all others are the same in all.
    shared : dict
        The modules that its instances are of.
    forced : set of str
        Those of them whose nets can be stuck.

    Raises
    ------
    UnsupportedDesign
        For what cannot be simulated in lanes, naming it.
    """
    return _Generator(top, varying_inputs, shared, forced).generate()


def _clears(register: Register) -> bool:
    return register.reset not in (ZERO, ONE) and not any(register.reset_value)


class _Generator:
    def __init__(self, top: Netlist, varying_inputs: set[str], shared: dict[str, Netlist], forced: frozenset[str]) -> None:
        self.top = top
        self.forced = forced
        varying = find_varying(top, shared, varying_inputs, forced=set(forced))
        self.varying = varying[TOP]
        self.graph = top.graph
        self.layout = Layout(self.varying)
        self.kinds = {
            name: Kind(f"kind{index}", netlist, varying[name], forced=name in forced)
            for index, (name, netlist) in enumerate(shared.items())
        }
        self.units: list[Unit] = []
        self.owners = 0
        self.code: dict[Unit, object] = {}
        self.init: list[tuple[int, int]] = []
        self.bit_init: list[tuple[int, int]] = []
        self.next_bits: list[tuple[int, int]] = []
        self.memory_at: dict[int, int] = {}
        self.before: list[str] = []
        #: What may be done at any time of the edge before memories are read.
        self.approaches: list[str] = []

    def new_owner(self) -> int:
        """Return a number for something that changes state at the edge."""
        self.owners += 1
        return self.owners

    def generate(self) -> Generated:
        layout = self.layout
        for nodes in self.top.inputs.values():
            layout.home(nodes)
        for nodes in self.top.inputs.values():
            if self.varying.any(nodes):
                layout.flag(nodes)
        skew = None if self.forced else skew_instances(self.top, self.kinds, self.varying)
        self.instances = Instances(self, self.kinds, skew)
        scalars = [register for register in self.top.registers if not self.varying.any(register.q)]
        split_registers(self.top, self.varying)
        lines, plain = find_lines(self.top, self.varying)
        in_lines = {register for line in lines for register in line.registers}
        # Scalars that change together are adjacent, so that one copy renews them.
        self.scalar_start = layout.bits
        for register in scalars:
            if register not in in_lines:
                self.initialise(layout.home(register.q), register.init, vector=False)
        self.scalar_count = layout.bits - self.scalar_start
        owner_of: dict[Register | Line, int] = {}
        window_of: dict[Line, list[tuple[int, int, int]]] = {}
        for line in lines:
            owner_of[line] = owner = self.new_owner()
            last = line.registers[-1].q
            if self.varying.any(last):
                stages = [(stage, line.registers[stage].q) for stage in line.seen]
                window_of[line] = [(stage, layout.window(q, owner), layout.flag(q)) for stage, q in stages]
            else:
                layout.home(last, owner)
        for register in plain:
            if self.varying.any(register.q):
                owner_of[register] = owner = self.new_owner()
                self.initialise(layout.home(register.q, owner), register.init, vector=True)
                layout.flag(register.q)
        reads = [(memory, port, self.new_owner()) for memory in self.top.memories for port in memory.reads]
        for _memory, port, owner in reads:
            self.initialise(layout.home(port.q, owner), port.init, vector=self.varying.any(port.q))
        self.instances.place()
        for index, memory in enumerate(self.top.memories):
            self._place_asynchronous(index, memory)

        for register in plain:
            if self.varying.any(register.q):
                self._add_register(register, owner_of[register])
            else:
                guard, values = next_state(self.top, self.varying, register)
                assert guard == ONE
                self.next_bits += zip((layout.bit[q] for q in register.q), values, strict=True)
        for line in lines:
            self._add_line(line, owner_of[line], window_of.get(line))
        for index, memory in enumerate(self.top.memories):
            self._add_memory(index, memory, [(port, owner) for held, port, owner in reads if held is memory])
        self.instances.add_units()
        return self._write(self._ports())

    # State and its places.

    def initialise(self, start: int, values: list[int], *, vector: bool) -> None:
        """Note what adjacent places hold at power-up."""
        (self.init if vector else self.bit_init).extend((start + index, 1) for index, value in enumerate(values) if value)

    def _place_asynchronous(self, index: int, memory: Memory) -> None:
        vector = self._varies(memory)
        # A word more of vectors: else the same words of several memories would compete for the same lines of the caches.
        allocate, words = (self.layout.allocate, memory.depth + 1) if vector else (self.layout.allocate_bits, memory.depth)
        self.memory_at[index] = allocate(memory.width * words)
        values = [memory.init >> k & 1 for k in range(memory.width * memory.depth)] if memory.init else []
        self.initialise(self.memory_at[index], values, vector=vector)
        for word in memory.asynchronous:
            if not vector:
                continue
            place = self.layout.home(word)
            address = self._address(list(self.graph.operands(word[0])) if word else [])
            self.before.append(self._fetch(memory, self.memory_at[index], place, address))

    def _varies(self, memory: Memory) -> bool:
        data = [node for port in memory.writes for node in port.data]
        return self.varying.any(data) or any(self.varying.any(port.q) for port in memory.reads)

    # Units of the clock edge.

    def unit(self, what: str, owner: int, reads: set[int] | list[int], code, detach=lambda: None) -> Unit:
        """Return a new unit of the clock edge, see ``Unit``; ``code`` is what the writer makes text of."""
        unit = Unit(what, owner, list(reads), detach, len(self.units))
        self.units.append(unit)
        self.code[unit] = code
        return unit

    def _guard(self, guard: int) -> int:
        return ALWAYS if guard == ONE else self.layout.scalar(guard)

    def _add_register(self, register: Register, owner: int) -> None:
        reset = ALWAYS
        if _clears(register) and not self.varying(register.reset) and not self.varying(register.enable):
            # A copy that clears instead spares a gate per bit.
            guard, values, reset = register.enable, register.d, self._guard(register.reset)
        else:
            guard, values = next_state(self.top, self.varying, register)
        code = {"guard": self._guard(guard), "target": self.layout.vector[register.q[0]], "count": len(register.q), "reset": reset}
        code |= {"changed": self.layout.changed[register.q[0]], "cleared": self.layout.allocate_bits(1)}
        self._from_run(code, "copy", owner, values, guard, vector=True)

    def _add_line(self, line: Line, owner: int, windows: list[tuple[int, int, int]] | None) -> None:
        """``windows`` are the stages of vectors that are seen, the number of each one's window, and its flag."""
        registers = line.registers
        count, stages = len(registers[0].q), len(registers)
        resets = [register.reset != ZERO for register in registers]
        reset = ALWAYS
        if any(resets):
            reset = self.layout.scalar(next(register.reset for register in registers if register.reset != ZERO))
        code = {"reset": reset, "count": count, "stages": stages}
        code["first"] = resets.index(False) if False in resets else stages
        code["last"] = resets[::-1].index(False) if False in resets else 0
        if windows is not None:
            code |= {"ring": self.layout.allocate(count * stages), "cleared": self.layout.allocate_bits(1), "windows": windows}
        else:
            ring = self.layout.allocate_bits(count * (stages - 1))
            code |= {"ring": ring, "target": self.layout.bit[registers[-1].q[0]]}
        vector = windows is not None
        self._from_run(code, "line" if vector else "bit_line", owner, registers[0].d, ONE, vector=vector)

    def _from_run(self, code: dict, what: str, owner: int, nodes: list[int], guard: int, *, vector: bool) -> None:
        """Add a unit that takes its new state from adjacent places."""

        def source(*, own: bool) -> set[int]:
            if vector:
                code["source"], reads = self.layout.run(nodes, guard, owner, own=own)
                code["if_changed"] = self.layout.flag_of(nodes, code["source"])
            else:
                code["source"], reads = self.layout.bit_run(nodes, own=own)
            return reads

        reads = source(own=False)
        if owner in reads:
            reads = source(own=True)
        self.unit(what, owner, reads, code, lambda: source(own=True))

    def _address(self, nodes: list[int]) -> str:
        terms = [
            f"(uint32_t)b[{self.layout.scalar(node)}] << {k}" if node > ONE else f"{node}u << {k}" for k, node in enumerate(nodes)
        ]
        return " | ".join(terms) or "0"

    def _fetch(self, memory: Memory, start: int, target: int, address: str) -> str:
        return f"fetch(s, {target}, {start}, {memory.width}, {memory.depth}, {address});"

    def _add_memory(self, index: int, memory: Memory, reads: list[tuple[ReadPort, int]]) -> None:
        vector = self._varies(memory)
        array, copy = ("s", "V") if vector else ("b", "uint8_t")
        start = self.memory_at[index]
        contents = self.new_owner()
        writes = [self._add_write(memory, port, contents, start, array, copy, vector) for port in memory.writes]
        for earlier, later in itertools.pairwise(writes):
            later.after.append(earlier)
        for port, owner in reads:
            place = (self.layout.vector if vector else self.layout.bit)[port.q[0]]
            address = self._address(port.address)
            resets = "".join(
                f"{array}[{place + k}] = {('ALL' if bit else 'NONE') if vector else bit}; "
                for k, bit in enumerate(port.reset_value)
            )
            fetch = f"fetch{'' if vector else '_bits'}({array}, {place}, {start}, {memory.width}, {memory.depth}, {address});"
            if vector:
                condition = "" if port.enable == ONE else f"if (b[{self._guard(port.enable)}]) "
                self.approaches.append(f"{condition}approach(s, {start}, {memory.width}, {memory.depth}, {address});")
            text = fetch if port.enable == ONE else f"if (b[{self._guard(port.enable)}]) {fetch}"
            if port.reset != ZERO:
                text = f"if (b[{self._guard(port.reset)}]) {{ {resets}}} else {text}"
            unseen = [write for number, write in enumerate(writes) if number not in port.sees]
            seen = [write for number, write in enumerate(writes) if number in port.sees]
            if unseen and seen and unseen[0].index < seen[-1].index:
                raise UnsupportedDesign(f"The lane generator does not know the mixed transparency of the memory {memory.name}")
            unit = self.unit("text", owner, [], text)
            unit.after += seen
            for write in unseen:
                write.after.append(unit)

    def _add_write(self, memory: Memory, port: WritePort, contents: int, start: int, array: str, copy: str, vector: bool) -> Unit:
        """One write port: adjacent bits with the same enable are written together."""
        address = self._address(port.address)
        parts: list[list[int]] = []
        for k, enable in enumerate(port.enable):
            if parts and port.enable[parts[-1][0]] == enable:
                parts[-1].append(k)
            else:
                parts.append([k])
        code = {"lines": []}

        def text(*, own: bool) -> set[int]:
            reads: set[int] = set()
            code["lines"] = [f"{{ const uint32_t a = {address}; if (a < {memory.depth}) {{"]
            for part in parts:
                enable = port.enable[part[0]]
                if enable == ZERO:
                    continue
                nodes = [port.data[k] for k in part]
                if vector:
                    source, used = self.layout.run(nodes, enable, contents, own=own)
                else:
                    source, used = self.layout.bit_run(nodes, own=own)
                reads |= used
                condition = "" if enable == ONE else f"if (b[{self._guard(enable)}]) "
                target = f"{array} + {start + part[0]} + (size_t)a * {memory.width}"
                copied = (
                    f"move({target}, at(sim, {source}), {len(part)})" if vector else f"memcpy({target}, b + {source}, {len(part)})"
                )
                code["lines"].append(f"{condition}{copied};")
            code["lines"].append("} }")
            return reads

        reads = text(own=False)
        return self.unit("write", contents, reads, code, lambda: text(own=True))

    # Ports and text.

    def _ports(self) -> dict[str, Port]:
        layout, ports = self.layout, {}
        outside = self.new_owner()
        for name, nodes in self.top.inputs.items():
            varying = self.varying.any(nodes)
            place = (layout.vector if varying else layout.bit)[nodes[0]]
            ports[name] = Port(name, True, varying, place, len(nodes), layout.changed.get(nodes[0]))
        for name, nodes in self.top.outputs.items():
            varying = self.varying.any(nodes)
            place = layout.run(nodes, ONE, outside)[0] if varying else layout.bit_run(nodes)[0]
            if place >= WINDOW:
                place = layout.run(nodes, ONE, outside, own=True)[0]
            ports[name] = Port(name, False, varying, place, len(nodes))
        return ports

    def _write(self, ports: dict[str, Port]) -> Generated:
        from sim.lanes.writer import write_source

        self.next_start = self.layout.allocate_bits(self.scalar_count)
        order = ordered(self.units)
        self.instances.place_handed([self.code[unit] for unit in order if unit.what == "instance"])
        clusters = find_clusters(self.varying, self.layout)
        source = write_source(self, order, clusters)
        names = {name: kind.net_names() for name, kind in self.kinds.items() if kind.forced}
        return Generated(source, ports, {placed.instance.name: index for index, placed in enumerate(self.instances.placed)}, names)

    def control(self) -> list[str]:
        """Return the statements that compute every scalar that is needed elsewhere, and the next state of the scalar registers."""
        layout = self.layout

        def load(node: int) -> str | None:
            return f"b[{layout.bit[node]}]" if node in layout.bit else None

        def read(tag: tuple, address: list[str]) -> str:
            index = next(index for index, memory in enumerate(self.top.memories) if memory.tag == tag[0])
            memory = self.top.memories[index]
            terms = " | ".join(f"(uint32_t){bit} << {k}" for k, bit in enumerate(address)) or "0"
            return f"read_bit(b + {self.memory_at[index]}, {memory.width}, {memory.depth}, {tag[2]}, {terms})"

        emitter = Emitter(self.varying, load, read=read)
        stores = [f"b[{place}] = {emitter.scalar(node)};" for place, node in layout.bit_roots]
        stores += [f"b[{place}] = {emitter.scalar(node)};" for place, node in self._next_places()]
        for node, place in layout.broadcasts.items():
            stores.append(f"s[{place}] = MASK({emitter.scalar(node)});")
        return [*emitter.lines, *stores]

    def _next_places(self) -> list[tuple[int, int]]:
        return [(self.next_start + place - self.scalar_start, node) for place, node in self.next_bits]
