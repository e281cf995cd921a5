"""From Yosys' JSON to a netlist of registers, memories, instances and single-bit gates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from sim.lanes.equal import REGISTERS
from sim.lanes.gates import BITWISE, ONE, ZERO, Graph, UnsupportedDesign, blast
from sim.lanes.hierarchy import ones_at_power_up

__all__ = ["Instance", "Memory", "Netlist", "ReadPort", "Register", "WritePort", "read_netlist"]


@dataclass(eq=False)
class Register:
    """Flip-flops of one word: nodes of its output, of its input and of its controls (ONE and ZERO where it has none).

    With ``reset`` it takes ``reset_value`` (whatever ``enable`` says), with ``enable`` ``d``; ``init`` at power-up; an int per bit.
    """

    name: str
    q: list[int]
    d: list[int]
    enable: int
    reset: int
    reset_value: list[int]
    init: list[int]


@dataclass(eq=False)
class ReadPort:
    """Clocked read port: ``q`` takes the word at ``address``; ``sees`` are the write ports whose data of the same cycle it gets."""

    q: list[int]
    address: list[int]
    enable: int
    reset: int
    reset_value: list[int]
    init: list[int]
    sees: set[int]


@dataclass(eq=False)
class WritePort:
    """Write port, one enable per bit."""

    address: list[int]
    data: list[int]
    enable: list[int]


@dataclass(eq=False)
class Memory:
    """Memory; ``tag`` is what its asynchronous reads carry in the graph, ``asynchronous`` the nodes of each of their words."""

    name: str
    tag: int
    width: int
    depth: int
    init: int
    reads: list[ReadPort] = field(default_factory=list)
    writes: list[WritePort] = field(default_factory=list)
    asynchronous: list[list[int]] = field(default_factory=list)


@dataclass(eq=False)
class Instance:
    """Instance of a module that is compiled once: nodes of its inputs and outputs by port."""

    name: str
    kind: str
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]


@dataclass(eq=False)
class Netlist:
    """A module. ``names`` has the name of every node to which the hardware description gives one."""

    name: str
    graph: Graph
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]
    registers: list[Register]
    memories: list[Memory]
    instances: list[Instance]
    names: dict[int, str]

    def uses(self, *, instances: bool = True) -> Iterator[int]:
        """Yield every node as often as gates, registers, memories, outputs and (if asked for) instances read it."""
        words = [self.graph.operands(node) for node in self.graph.gates()]
        words += [(*register.d, register.enable, register.reset) for register in self.registers]
        for memory in self.memories:
            words += [(*port.address, port.enable, port.reset) for port in memory.reads]
            words += [(*port.address, *port.data, *port.enable) for port in memory.writes]
        words += self.outputs.values()
        if instances:
            words += [nodes for instance in self.instances for nodes in instance.inputs.values()]
        return itertools.chain.from_iterable(words)


def read_netlist(name: str, module: dict, shared: dict[str, Netlist], *, literal: bool = False) -> Netlist:
    """Return the netlist of a flat module in the form of Yosys' JSON.

    Parameters
    ----------
    shared : dict
        Netlists of the modules that its instances are of, by name.
    literal : bool
        See ``Graph``.

    Raises
    ------
    UnsupportedDesign
        For a latch, a combinational loop, a second clock, and any cell that is not known.
    """
    return _Reader(name, module, literal, shared).read()


class _Reader:
    """Turns Yosys' JSON of a flat module into a netlist."""

    def __init__(self, name: str, module: dict, literal: bool, shared: dict[str, Netlist]) -> None:
        self.name = name
        self.shared = shared
        self.graph = Graph(literal=literal)
        self.node: dict = {"0": ZERO, "1": ONE, "x": ZERO, "z": ZERO}
        self.cells = [(label, cell) for label, cell in module["cells"].items() if cell["type"] != "$scopeinfo"]
        self.ports = module["ports"]
        self.nets = module["netnames"]
        self.ones = ones_at_power_up(module)
        self.net_name = {}
        self.described: set[int] = set()
        for label, net in sorted(self.nets.items(), key=lambda item: item[1]["hide_name"]):
            if not net["hide_name"]:
                self.described.update(bit for bit in net["bits"] if isinstance(bit, int))
            for index, bit in enumerate(net["bits"]):
                self.net_name.setdefault(bit, label if len(net["bits"]) == 1 else f"{label}[{index}]")
        self.driver: dict[int, tuple[int, str, int]] = {}
        for index, (label, cell) in enumerate(self.cells):
            if cell["type"][0] != "$" and cell["type"] not in shared:
                raise UnsupportedDesign(f"The instance {label} is of a module {cell['type']} that is not known")
            for port, direction in cell.get("port_directions", {}).items():
                if direction == "output":
                    for offset, bit in enumerate(cell["connections"][port]):
                        self.driver[bit] = (index, port, offset)

    def parameter(self, cell: dict, name: str, default: int = 0) -> int:
        value = cell["parameters"].get(name)
        return default if value is None else int(value.replace("x", "0").replace("z", "0") or "0", 2)

    def read(self) -> Netlist:
        inputs, outputs, names = {}, {}, {}
        for port, facts in self.ports.items():
            if facts["direction"] == "input":
                inputs[port] = [self.source(bit, ("input", port, index)) for index, bit in enumerate(facts["bits"])]
        # Whatever holds state is a source of the gates.
        for index, (label, cell) in enumerate(self.cells):
            kind = cell["type"]
            if kind in REGISTERS:
                for offset, bit in enumerate(cell["connections"]["Q"]):
                    self.source(bit, ("register", index, offset))
            elif kind == "$mem_v2":
                self._synchronous_reads(index, cell)
            elif kind[0] != "$":
                for port, bits in cell["connections"].items():
                    if self._is_output(cell, port):
                        for offset, bit in enumerate(bits):
                            if isinstance(bit, int):
                                self.source(bit, ("instance", index, port, offset))
            elif "latch" in kind or "dff" in kind or kind.startswith("$sr"):
                label = self.net_name.get(cell["connections"]["Q"][0], label)
                what = "latch" if "latch" in kind or kind.startswith("$sr") else "flip-flop"
                raise UnsupportedDesign(f"The lane generator does not know the {what} {label} of type {kind}")
        registers = [self._register(label, cell) for label, cell in self.cells if cell["type"] in REGISTERS]
        memories = [self._memory(index, label, cell) for index, (label, cell) in enumerate(self.cells) if cell["type"] == "$mem_v2"]
        instances = [self._instance(index, label, cell) for index, (label, cell) in enumerate(self.cells) if cell["type"][0] != "$"]
        for port, facts in self.ports.items():
            if facts["direction"] != "input":
                outputs[port] = self.word(facts["bits"])
        for bit, node in self.node.items():
            if bit in self.described:
                names.setdefault(node, self.net_name[bit])
        return Netlist(self.name, self.graph, inputs, outputs, registers, memories, instances, names)

    def source(self, bit, tag: tuple) -> int:
        node = self.node[bit] = self.graph.source(tag)
        return node

    def _is_output(self, cell: dict, port: str) -> bool:
        return port in self.shared[cell["type"]].outputs

    def word(self, bits: list) -> list[int]:
        for bit in bits:
            if bit not in self.node:
                self._solve(bit)
        return [self.node[bit] for bit in bits]

    def _solve(self, goal: int) -> None:
        """Make the nodes of a net and of everything that it depends on."""
        stack = [goal]
        open_units: set = set()
        while stack:
            bit = stack[-1]
            if bit in self.node:
                stack.pop()
                continue
            if bit not in self.driver:
                self.node[bit] = ZERO  # driven by nobody
                continue
            index, port, offset = self.driver[bit]
            label, cell = self.cells[index]
            connections = cell["connections"]
            if cell["type"] in BITWISE:
                unit = (index, offset)
                needed = [connections[p][min(offset, len(connections[p]) - 1)] for p in ("A", "B") if p in connections]
                needed += connections.get("S", [])
            elif cell["type"] == "$mem_v2":
                unit = (index, offset // self.parameter(cell, "WIDTH"))
                abits = self.parameter(cell, "ABITS")
                needed = connections["RD_ADDR"][unit[1] * abits : (unit[1] + 1) * abits]
            else:
                unit = (index, 0)
                needed = [b for p, bits in connections.items() if p != port for b in bits]
            missing = [b for b in needed if b not in self.node]
            if missing:
                if unit in open_units:
                    raise UnsupportedDesign(f"{self.name} has a combinational loop through the net {self.net_name.get(bit, label)}")
                open_units.add(unit)
                stack.extend(missing)
                continue
            self._make(index, port, offset, unit)

    def _make(self, index: int, port: str, offset: int, unit: tuple) -> None:
        label, cell = self.cells[index]
        connections = cell["connections"]
        kind = cell["type"]
        if kind == "$mem_v2":
            width, abits = self.parameter(cell, "WIDTH"), self.parameter(cell, "ABITS")
            read = unit[1]
            address = tuple(self.node[b] for b in connections["RD_ADDR"][read * abits : (read + 1) * abits])
            for bit in range(width):
                self.node[connections["RD_DATA"][read * width + bit]] = self.graph.read((index, read, bit), address)
            return
        parameters = {name: self.parameter(cell, name) for name in ("A_SIGNED", "B_SIGNED")}
        if kind in BITWISE:
            words = {p: connections[p] for p in ("A", "B") if p in connections}
            ports = {}
            for p, bits in words.items():
                # The one bit that matters; beyond the operand's width its sign or zero.
                if offset < len(bits):
                    ports[p] = [self.node[bits[offset]]]
                else:
                    signed = parameters["A_SIGNED"] and (parameters["B_SIGNED"] or "B" not in words)
                    ports[p] = [self.node[bits[-1]] if signed else ZERO]
            if "S" in connections:
                ports["S"] = [self.node[connections["S"][0]]]
            result = blast(self.graph, label, kind, {}, ports, 1)
            self.node[connections["Y"][offset]] = result[0]
        else:
            output = "Y"
            ports = {p: [self.node[b] for b in bits] for p, bits in connections.items() if p != output}
            bits = connections.get(output, [])
            for bit, node in zip(bits, blast(self.graph, label, kind, parameters, ports, len(bits)), strict=True):
                self.node[bit] = node

    def _clock(self, label: str, bit, polarity: int) -> None:
        if bit not in self.ports.get("clk", {"bits": ()})["bits"] or not polarity:
            raise UnsupportedDesign(f"{label} is not clocked by the rising edge of clk")

    def _register(self, label: str, cell: dict) -> Register:
        connections, kind = cell["connections"], cell["type"]
        width = len(connections["Q"])
        label = self.net_name.get(connections["Q"][0], label)
        self._clock(label, connections["CLK"][0], self.parameter(cell, "CLK_POLARITY"))
        enable, reset = ONE, ZERO
        if "EN" in connections:
            enable = self.word(connections["EN"])[0]
            enable = enable if self.parameter(cell, "EN_POLARITY", 1) else self.graph.not_(enable)
        if "SRST" in connections:
            reset = self.word(connections["SRST"])[0]
            reset = reset if self.parameter(cell, "SRST_POLARITY", 1) else self.graph.not_(reset)
        if kind == "$sdffce":
            reset = self.graph.and_(reset, enable)
        value = self.parameter(cell, "SRST_VALUE")
        return Register(
            name=label,
            q=self.word(connections["Q"]),
            d=self.word(connections["D"]),
            enable=enable,
            reset=reset,
            reset_value=[value >> k & 1 for k in range(width)],
            init=[int(bit in self.ones) for bit in connections["Q"]],
        )

    def _synchronous_reads(self, index: int, cell: dict) -> None:
        width = self.parameter(cell, "WIDTH")
        for read in range(self.parameter(cell, "RD_PORTS")):
            if self.parameter(cell, "RD_CLK_ENABLE") >> read & 1:
                for bit in range(width):
                    self.source(cell["connections"]["RD_DATA"][read * width + bit], ("memory", index, read, bit))

    def _memory(self, index: int, label: str, cell: dict) -> Memory:
        connections = cell["connections"]
        width, abits = self.parameter(cell, "WIDTH"), self.parameter(cell, "ABITS")
        reads, writes = self.parameter(cell, "RD_PORTS"), self.parameter(cell, "WR_PORTS")
        if (
            self.parameter(cell, "OFFSET")
            or self.parameter(cell, "RD_WIDE_CONTINUATION")
            or self.parameter(cell, "WR_WIDE_CONTINUATION")
        ):
            raise UnsupportedDesign(f"The lane generator does not know the wide ports or the offset of the memory {label}")
        memory = Memory(label, index, width, self.parameter(cell, "SIZE"), self.parameter(cell, "INIT"))

        def part(port: str, number: int, size: int) -> list:
            return connections[port][number * size : (number + 1) * size]

        for read in range(reads):
            data = part("RD_DATA", read, width)
            if not self.parameter(cell, "RD_CLK_ENABLE") >> read & 1:
                memory.asynchronous.append(self.word(data))
                continue
            self._clock(label, connections["RD_CLK"][read], self.parameter(cell, "RD_CLK_POLARITY") >> read & 1)
            if self.word(part("RD_ARST", read, 1)) != [ZERO]:
                raise UnsupportedDesign(f"The lane generator does not know the asynchronous reset of the memory {label}")

            def bits(name: str, read=read) -> list[int]:
                return [self.parameter(cell, name) >> read * width + k & 1 for k in range(width)]

            memory.reads.append(
                ReadPort(
                    q=self.word(data),
                    address=self.word(part("RD_ADDR", read, abits)),
                    enable=self.word(part("RD_EN", read, 1))[0],
                    reset=self.word(part("RD_SRST", read, 1))[0],
                    reset_value=bits("RD_SRST_VALUE"),
                    init=bits("RD_INIT_VALUE"),
                    sees={w for w in range(writes) if self.parameter(cell, "RD_TRANSPARENCY_MASK") >> read * writes + w & 1},
                )
            )
        for write in range(writes):
            self._clock(label, connections["WR_CLK"][write], self.parameter(cell, "WR_CLK_POLARITY") >> write & 1)
            memory.writes.append(
                WritePort(
                    address=self.word(part("WR_ADDR", write, abits)),
                    data=self.word(part("WR_DATA", write, width)),
                    enable=self.word(part("WR_EN", write, width)),
                )
            )
        return memory

    def _instance(self, index: int, label: str, cell: dict) -> Instance:
        inputs = {port: self.word(bits) for port, bits in cell["connections"].items() if not self._is_output(cell, port)}
        outputs = {port: self.word(bits) for port, bits in cell["connections"].items() if self._is_output(cell, port)}
        return Instance(label, cell["type"], inputs, outputs)
