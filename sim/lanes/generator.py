"""From a netlist to C: places for its state, the control as scalars, clusters and instances as vectors, and the clock edge."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sim.lanes.clusters import find_clusters
from sim.lanes.delays import find_lines, split_registers
from sim.lanes.emitter import Emitter
from sim.lanes.gates import ONE, ZERO, UnsupportedDesign
from sim.lanes.kinds import Kind
from sim.lanes.layout import Layout
from sim.lanes.netlist import Instance, Memory, Netlist, ReadPort, Register, WritePort
from sim.lanes.plan import TOP, find_varying, next_state
from sim.lanes.schedule import Unit, ordered

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
        self.shared = shared
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
        self.owners += 1
        return self.owners

    def generate(self) -> Generated:
        layout = self.layout
        for nodes in self.top.inputs.values():
            layout.home(nodes)
        for nodes in self.top.inputs.values():
            if self.varying.any(nodes):
                layout.flag(nodes)
        scalars = [register for register in self.top.registers if not self.varying.any(register.q)]
        split_registers(self.top, self.varying)
        lines, plain = find_lines(self.top, self.varying)
        in_lines = {register for line in lines for register in line}
        # Scalars that change together are adjacent, so that one copy renews them.
        self.scalar_start = layout.bits
        for register in scalars:
            if register not in in_lines:
                self._initialise(layout.home(register.q), register.init, vector=False)
        self.scalar_count = layout.bits - self.scalar_start
        owner_of = {}
        for line in lines:
            owner_of[line[-1]] = owner = self.new_owner()
            vector = self.varying.any(line[-1].q)
            self._initialise(layout.home(line[-1].q, owner), line[-1].init, vector=vector)
            if vector:
                layout.flag(line[-1].q)
        for register in plain:
            if self.varying.any(register.q):
                owner_of[register] = owner = self.new_owner()
                self._initialise(layout.home(register.q, owner), register.init, vector=True)
                layout.flag(register.q)
        reads = [(memory, port, self.new_owner()) for memory in self.top.memories for port in memory.reads]
        for _memory, port, owner in reads:
            self._initialise(layout.home(port.q, owner), port.init, vector=self.varying.any(port.q))
        hot = [self.layout.allocate(self.kinds[instance.kind].hot) for instance in self.top.instances]
        instances = [
            (instance, self.new_owner(), vectors, self._place_instance(instance, vectors))
            for instance, vectors in zip(self.top.instances, hot, strict=True)
        ]
        for instance, owner, vectors, (cold, bits) in instances:
            self._home_outputs(instance, owner, vectors, cold, bits)
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
            self._add_line(line, owner_of[line[-1]])
        for index, memory in enumerate(self.top.memories):
            self._add_memory(index, memory, [(port, owner) for held, port, owner in reads if held is memory])
        for instance, owner, vectors, (cold, bits) in instances:
            self._add_instance(instance, owner, vectors, cold, bits)
        ports = self._ports()
        return self._write(ports, [(instance, vectors, cold) for instance, _, vectors, (cold, _) in instances])

    # State and its places.

    def _initialise(self, start: int, values: list[int], *, vector: bool) -> None:
        (self.init if vector else self.bit_init).extend((start + index, 1) for index, value in enumerate(values) if value)

    def _place_instance(self, instance: Instance, hot: int) -> tuple[int, int]:
        """Return the places of an instance's guarded vectors and of its scalars."""
        kind = self.kinds[instance.kind]
        cold, bits = self.layout.allocate(kind.vectors - kind.hot), self.layout.allocate_bits(kind.bits)
        self.layout.flags += [bits + flag for flag in kind.flags]
        self._initialise(hot, kind.init[: kind.hot], vector=True)
        self._initialise(cold, kind.init[kind.hot :], vector=True)
        self._initialise(bits, kind.bit_init, vector=False)
        return cold, bits

    def _home_outputs(self, instance: Instance, owner: int, vectors: int, cold: int, bits: int) -> None:
        kind = self.kinds[instance.kind]
        for port, nodes in instance.outputs.items():
            for inner, outer in zip(kind.netlist.outputs[port], nodes, strict=True):
                if inner in kind.vector_at:
                    place = kind.vector_at[inner]
                    self.layout.changed[outer] = bits + kind.flag_at[inner]
                    self.layout.vector[outer] = vectors + place if place < kind.hot else cold + place - kind.hot
                elif inner in kind.bit_at:
                    self.layout.bit[outer] = bits + kind.bit_at[inner]
                else:
                    target = self.layout.bit
                    target[outer] = self.layout.allocate_bits(1)
                    self._initialise(target[outer], [inner], vector=False)
                self.layout.owner[outer] = owner

    def _place_asynchronous(self, index: int, memory: Memory) -> None:
        vector = self._varies(memory)
        self.memory_at[index] = (self.layout.allocate if vector else self.layout.allocate_bits)(memory.width * (memory.depth + vector))
        values = [memory.init >> k & 1 for k in range(memory.width * memory.depth)] if memory.init else []
        self._initialise(self.memory_at[index], values, vector=vector)
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

    def _unit(self, what: str, owner: int, reads: set[int] | list[int], code, detach=lambda: None) -> Unit:
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

    def _add_line(self, line: list[Register], owner: int) -> None:
        vector = self.varying.any(line[-1].q)
        count, depth = len(line[0].q), len(line) - 1
        place = (self.layout.vector if vector else self.layout.bit)[line[-1].q[0]]
        ring = (self.layout.allocate if vector else self.layout.allocate_bits)(count * depth)
        resets = [register.reset != ZERO for register in line]
        reset = self.layout.scalar(next(register.reset for register in line if register.reset != ZERO)) if any(resets) else ALWAYS
        first = resets.index(False) if False in resets else len(line)
        last = resets[::-1].index(False) if False in resets else 0
        code = {"target": place, "count": count, "ring": ring, "depth": depth, "reset": reset, "first": first, "last": last}
        code["changed"] = self.layout.changed[line[-1].q[0]] if vector else self.layout.always
        code["cleared"] = self.layout.allocate_bits(1)
        self._from_run(code, "line" if vector else "bit_line", owner, line[0].d, ONE, vector=vector)

    def _from_run(self, code: dict, what: str, owner: int, nodes: list[int], guard: int, *, vector: bool) -> None:
        """Add a unit that takes its new state from adjacent places."""

        def source(*, own: bool) -> set[int]:
            if vector:
                code["source"], reads = self.layout.run(nodes, guard, owner, own=own)
                code["if_changed"] = self.layout.flag_of(nodes, code["source"])
            else:
                code["source"], reads = self.layout.bit_run(nodes, own=own)
                code["if_changed"] = self.layout.always
            return reads

        reads = source(own=False)
        if owner in reads:
            reads = source(own=True)
        self._unit(what, owner, reads, code, lambda: source(own=True))

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
            unit = self._unit("text", owner, [], text)
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
                copied = f"move({target}, {array} + {source}, {len(part)})" if vector else f"memcpy({target}, {array} + {source}, {len(part)})"
                code["lines"].append(f"{condition}{copied};")
            code["lines"].append("} }")
            return reads

        reads = text(own=False)
        return self._unit("write", contents, reads, code, lambda: text(own=True))

    def _add_instance(self, instance: Instance, owner: int, vectors: int, cold: int, bits: int) -> None:
        kind = self.kinds[instance.kind]
        code: dict = {"kind": kind, "vectors": vectors, "cold": cold, "bits": bits, "ports": []}

        def wire(*, own: bool) -> list[int]:
            code["ports"], code["if_changed"] = [], []
            widths: dict[int, int] = {}
            for port in kind.vector_ports + kind.bit_ports:
                run = self._instance_run(instance.inputs[port], port in kind.vector_ports, owner, own=own)
                code["ports"].append(run[0])
                if port in kind.vector_ports:
                    code["if_changed"].append(self.layout.flag_of(instance.inputs[port], run[0]))
                for read in run[1]:
                    widths[read] = widths.get(read, 0) + len(instance.inputs[port]) * (8 if port in kind.vector_ports else 1)
            return sorted(widths, key=widths.__getitem__)

        self._unit("instance", owner, wire(own=False), code, lambda: wire(own=True))

    def _instance_run(self, nodes: list[int], vector: bool, owner: int, *, own: bool) -> tuple[int, set[int]]:
        def run(own: bool) -> tuple[int, set[int]]:
            return self.layout.run(nodes, ONE, owner, own=own) if vector else self.layout.bit_run(nodes, own=own)

        place, reads = run(own)
        # An instance never sees its own state through two pointers.
        return run(True) if owner in reads else (place, reads)

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
            ports[name] = Port(name, False, varying, place, len(nodes))
        return ports

    def _write(self, ports: dict[str, Port], instances: list[tuple[Instance, int, int]]) -> Generated:
        from sim.lanes.writer import write_source

        self.next_start = self.layout.allocate_bits(self.scalar_count)
        order = ordered(self.units)
        clusters = find_clusters(self.varying, self.layout)
        source = write_source(self, order, clusters, instances)
        names = {name: kind.net_names() for name, kind in self.kinds.items() if kind.forced}
        return Generated(source, ports, {instance.name: index for index, (instance, *_) in enumerate(instances)}, names)

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
