"""Nets that are always equal and made one: nothing may come out otherwise, from power-up on, and what is narrow must get narrow."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal, signed, unsigned
from lane_bench import in_lane, in_lanes, simulated

from epsilon.config import ArrayConfig
from hdl.array import PE_MODULE, SystolicArray
from hdl.pe import ProcessingElement
from hdl.shared import SharedModules, named_ports
from sim.lanes.build import generate_accelerator
from sim.lanes.design import compile_design
from sim.lanes.elaborate import read_design
from sim.lanes.equal import merge_equal

CYCLES = 40
#: The inputs of a row, the first group different in every lane.
VARYING = {"x": signed(4), "y": signed(4), "u": unsigned(3)}
SCALAR = {"enable": unsigned(1), "clear": unsigned(1)}


class Part:
    """A part with ports ``inputs`` and ``outputs``: what a processing element does, and what looks like it and must stay wide.

    Parameters
    ----------
    init, cleared : int
        Of a partial sum that is held: at power-up, and after a ``clear``.
    """

    def __init__(self, init: int = 0, cleared: int = 0) -> None:
        self._cleared = cleared
        self.inputs = {name: Signal(shape, name=name) for name, shape in (VARYING | SCALAR | {"psum": signed(12)}).items()}
        shapes = {"psum": 12, "held": 12, "total": 6, "twice": 8, "x": 4, "yet": 4}
        self.outputs = {name: Signal(signed(width), name=f"{name}_out", reset_less=True) for name, width in shapes.items()}
        self.outputs["held"] = Signal(signed(12), name="held_out", init=init, reset_less=True)
        self.outputs["count"] = Signal(5, name="count_out", init=9)
        self.outputs["constant"] = Signal(3, name="constant_out")

    @property
    def ports(self) -> dict[str, Signal]:
        return {signal.name: signal for signal in (*self.inputs.values(), *self.outputs.values())}

    def module(self) -> Module:
        """Return what is inside."""
        m = Module()
        i, o = SimpleNamespace(**self.inputs), SimpleNamespace(**self.outputs)
        m.d.sync += [o.psum.eq(i.psum + i.x), o.x.eq(i.x), o.twice.eq(i.x + i.y)]
        with m.If(i.enable):
            # Both wrap around.
            m.d.sync += [o.held.eq(i.psum + i.x), o.total.eq(o.total + i.x), o.count.eq(o.count + i.u)]
        with m.If(i.clear):
            m.d.sync += o.held.eq(self._cleared)
        m.d.comb += [o.yet.eq(o.x), o.constant.eq(5)]
        return m


def bypass(row, index: int, port: str):
    """Return what leads to an input of a part in a chain: the sum of the part before, and the inputs of the row."""
    if port != "psum":
        return row.inputs[port]
    return row.parts[-1].outputs["psum"] if index else 0


class Row(Elaboratable):
    """Parts of a kind, instances for a platform (any), else modules; every output of each is an output of the row.

    Parameters
    ----------
    make : callable
        Returns a part.
    count : int
        How many there are.
    leads : callable
        Returns what leads to an input, given the row, the number of the part, and the port; ``parts`` are those before it.
    left_out : dict
        The outputs that an instance does not have, by its number.
    """

    def __init__(self, make: Callable, count: int, leads: Callable = bypass, left_out: dict[int, set[str]] | None = None) -> None:
        self._make, self._count, self._leads, self._left_out = make, count, leads, left_out or {}
        self.domain = ClockDomain("sync")
        self.inputs = {name: Signal(shape, name=name) for name, shape in (VARYING | SCALAR).items()} | {"rst": self.domain.rst}
        self.parts = []
        self.outputs = {
            f"{name}_{index}": Signal(len(signal), name=f"{name}_{index}")
            for index in range(count)
            for name, signal in make().outputs.items()
            if name not in self._left_out.get(index, ())
        }
        self.ports = {"clk": self.domain.clk, **self.inputs, **self.outputs}

    def elaborate(self, platform):
        m = Module()
        m.domains += self.domain
        self.m, self.parts = m, []
        for index in range(self._count):
            part = self._make()
            m.d.comb += [signal.eq(self._leads(self, index, port)) for port, signal in part.inputs.items()]
            if platform is None:
                m.submodules[f"part{index}"] = part.module()
            else:
                ports = {f"i_{signal.name}": signal for signal in part.inputs.values()}
                ports |= {f"o_{s.name}": s for name, s in part.outputs.items() if name not in self._left_out.get(index, ())}
                m.submodules[f"part{index}"] = Instance("part", i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
            self.parts.append(part)
            for name, signal in part.outputs.items():
                if f"{name}_{index}" in self.outputs:
                    m.d.comb += self.outputs[f"{name}_{index}"].eq(signal)
        return m


def stimulus(seed: int, lanes: int) -> list[dict]:
    """Return the inputs of every cycle: the least there is in the first lane, the most in the second, much of both in others."""
    rng = np.random.default_rng(seed)
    cycles = []
    for cycle in range(CYCLES):
        inputs = {}
        for name, shape in VARYING.items():
            width = shape.width
            least, most = (1 << width - 1, (1 << width - 1) - 1) if shape.signed else (0, (1 << width) - 1)
            values = rng.integers(0, 1 << width, lanes, dtype=np.uint64)
            values[rng.random(lanes) < 0.3] = least
            values[rng.random(lanes) < 0.3] = most
            values[:2] = least, most
            inputs[name] = values
        # At first there is neither reset nor enable: what is there at power-up is seen, and stays.
        inputs["enable"] = int(cycle > 2 and rng.random() < 0.8)
        inputs["clear"] = int(cycle > 2 and rng.random() < 0.15)
        cycles.append(inputs | {"rst": int(cycle in (20, 21))})
    return cycles


def check(make: Callable, count: int, *, seed: int, **row) -> None:
    """Compare a row in lanes with Amaranth's simulator."""
    module, part = Row(make, count, **row), make()
    shared = {"part": (part.module(), part.ports)}
    design = compile_design(module, module.ports, varying_inputs=set(VARYING), shared=shared, platform=object())
    cycles = stimulus(seed, design.lanes)
    assert all(name in design.ports for name in (*module.inputs, *module.outputs))
    seen = in_lanes(design, module.outputs.values(), cycles)
    for lane in (0, 1, design.lanes - 1):
        plain = Row(make, count, **row)
        expected = simulated(plain, plain.inputs, plain.outputs.values(), cycles, lane)
        for cycle, outputs in enumerate(seen):
            mine = dict(zip(module.outputs, [in_lane(value, lane) for value in outputs], strict=True))
            assert mine == dict(zip(module.outputs, expected[cycle], strict=True)), f"seed {seed}, lane {lane}, cycle {cycle}"


def read(make: Callable, count: int, *, literal: bool = False, **row):
    """Return the netlists of a row and of its part."""
    module, part = Row(make, count, **row), make()
    top, modules = read_design(
        module, "top", module.ports, {"part": (part.module(), part.ports)}, platform=object(), literal=literal
    )
    return top, modules["part"]


def bits_kept(netlist) -> dict[str, int]:
    """Return how many bits the registers of a netlist have, by the names of their first bits."""
    return {register.name.removesuffix("[0]"): len(register.q) for register in netlist.registers}


def bits_of(low: int, high: int) -> int:
    """Return the bits that signed numbers of a range need."""
    return next(width for width in range(1, 64) if -(1 << width - 1) <= low and high < 1 << width - 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_partial_sums_are_as_wide_as_their_range(count):
    # Of two and of four the least is a power of two, and just fits.
    _, part = read(Part, count)
    width = bits_of(-8 * count, 7 * count)
    assert bits_kept(part) == {"psum_out": width, "held_out": width, "total_out": 6, "twice_out": 5, "x_out": 4, "count_out": 5}
    assert len(part.inputs.get("psum", ())) == (bits_of(-8 * (count - 1), 7 * (count - 1)) if count > 1 else 0)
    # An output that equals another one, or a constant, is no output of the part any more.
    assert {name: len(nodes) for name, nodes in part.outputs.items()} == bits_kept(part)


def test_literal_modules_stay_as_they_are():
    top, part = read(Part, 3, literal=True)
    widths = {signal.name: len(signal) for signal in Part().ports.values()} | {"clk": 1, "rst": 1}
    assert {name: len(nodes) for name, nodes in (part.inputs | part.outputs).items()} == widths
    for instance in top.instances:
        assert {name: len(nodes) for name, nodes in (instance.inputs | instance.outputs).items()} == widths
    assert bits_kept(part)["psum_out"] == 12


@pytest.mark.parametrize("count", [2, 3, 4])
def test_bounds_of_partial_sums_are_reached(count):
    check(Part, count, seed=count)


@pytest.mark.parametrize(("init", "cleared"), [(1000, 0), (0, -1024), (-3, -2048), (64, -65), (-17, 16)])
def test_init_and_reset_values_widen_a_register(init, cleared):
    def make():
        return Part(init, cleared)

    # Of what takes the sign of the sum, bit 4, as many bits as differ at power-up or after a reset.
    different = {(min(k, 4), init >> k & 1, cleared >> k & 1) for k in range(12)}
    assert bits_kept(read(make, 2)[1])["held_out"] == len(different) > 5
    check(make, 2, seed=init % 100)


def loose(row, index: int, port: str):
    """Let the first part have constants, the second the same word twice, the third a sum from outside of which nothing is known."""
    x, y = row.inputs["x"], row.inputs["y"]
    match index, port:
        case 0, "psum":
            return Const(-100, signed(12))
        case 0, "x":
            return Const(-8, signed(4))
        case 0, "enable":
            return Const(1)
        case 1, "y":
            return x
        case 1, "u":
            return Cat(x[0], x[0], Const(1))
        case 2, "psum":
            return Cat(x, y, x)
        case 2, "y":
            return Cat(y[0], y[0], y[0], y[0]).as_signed()
    return bypass(row, index, port)


def test_instances_of_which_different_things_are_known():
    _, part = read(Part, 3, leads=loose)
    assert bits_kept(part)["psum_out"] == 12
    assert {name: len(nodes) for name, nodes in part.inputs.items() if name in VARYING} == {"x": 4, "y": 4, "u": 3}
    check(lambda: Part(77, -5), 3, seed=1, leads=loose)


def test_constants_of_all_instances_are_no_ports():
    def leads(row, index, port):
        return {"u": Const(5, 3), "y": row.inputs["x"], "clear": Const(0)}.get(port, bypass(row, index, port))

    _, part = read(Part, 2, leads=leads)
    # Nor are there two of what is always the same.
    assert part.inputs.keys() - {"x", "y"} == {"clk", "rst", "enable", "psum"}
    assert len(part.inputs.keys() & {"x", "y"}) == 1
    check(Part, 2, seed=2, leads=leads)


def test_instance_of_constants_alone_takes_them():
    def leads(row, index, port):
        constants = {"psum": Const(100, 12), "x": Const(-8, 4), "y": Const(7, 4)}
        return constants[port] if index == 0 and port in constants else bypass(row, index, port)

    check(Part, 2, seed=5, leads=leads)


def ring(row, index: int, port: str):
    """Let the sum of the last part go back to the first, by a register of the row: it grows until it wraps around."""
    if (index, port) == (0, "psum"):
        row.back = Signal(signed(12), name="back")
        return row.back
    if (index, port) == (1, "clear"):
        row.m.d.sync += row.back.eq(row.parts[0].outputs["psum"])
    return bypass(row, index, port)


def test_sums_that_go_around_stay_wide():
    top, part = read(Part, 2, leads=ring)
    assert bits_kept(part)["psum_out"] == 12
    assert [*bits_kept(top).values()] == [12]
    check(Part, 2, seed=3, leads=ring)


def test_instance_without_some_outputs_keeps_its_module():
    left_out = {1: {"constant", "x"}}
    _, part = read(Part, 3, left_out=left_out)
    assert bits_kept(part)["psum_out"] == 12
    check(Part, 3, seed=4, left_out=left_out)


def register(d: list, q: list[int], **parameters: str) -> dict:
    """Return a register in the form of Yosys' JSON."""
    connections = {"CLK": [2], "D": d, "Q": q} | ({"SRST": [3]} if parameters else {})
    return {"type": "$sdff" if parameters else "$dff", "parameters": parameters, "connections": connections}


def adder(a: list, b: list, y: list[int], signs: str = "11") -> dict:
    """Return an adder in the form of Yosys' JSON."""
    return {"type": "$add", "parameters": {"A_SIGNED": signs[0], "B_SIGNED": signs[1]}, "connections": {"A": a, "B": b, "Y": y}}


def merged(cells: dict, init: dict[int, str] | None = None, shared: dict | None = None) -> dict:
    """Return the cells of a module after nets that are equal have been made one."""
    nets = {f"n{bit}": {"bits": [bit], "attributes": {"init": digit}} for bit, digit in (init or {}).items()}
    return merge_equal({"ports": {}, "cells": cells, "netnames": nets}, shared or {})[0]["cells"]


def test_undefined_bits_are_zero():
    # Bits 20 and 21 take zeros, 22 begins as 1, 23 is reset to 1, 24 takes 1.
    cells = {"r": register(["x", "0", "z", "0", "1"], [20, 21, 22, 23, 24], SRST_VALUE="010x0")}
    cell = merged(cells, {20: "x", 21: "0", 22: "1"})["r"]
    assert (cell["connections"]["D"], cell["connections"]["Q"]) == (["0", "0", "0", "1"], [20, 22, 23, 24])
    assert cell["parameters"]["SRST_VALUE"] == "0100"


def test_what_follows_repeats_what_is_equal():
    # The second register is there before the first one is known.
    cells = {"second": register([20, 21, 22], [30, 31, 32]), "first": register([5, 5, 6], [20, 21, 22])}
    connections = {label: cell["connections"] for label, cell in merged(cells).items()}
    assert connections["first"] == {"CLK": [2], "D": [5, 6], "Q": [20, 22]}
    assert connections["second"] == {"CLK": [2], "D": [20, 22], "Q": [30, 32]}


@pytest.mark.parametrize(("addend", "then", "bits"), [(4, -4, 3), (5, -4, 5), (-4, 4, 3), (-5, 4, 5)])
def test_sum_that_can_wrap_around_has_no_range(addend, then, bits):
    # A word of -4..3 and one of four bits, which 8 and -9 do not fit; then what would bring the sum back to few bits.
    def constant(value: int, width: int) -> list[str]:
        return [str(value >> k & 1) for k in range(width)]

    # The second adder is there before the first one is known, and all the bits of the first one differ.
    cells = {"second": adder([20, 21, 22, 23], constant(then, 4), [30, 31, 32, 33, 34])}
    cells |= {"first": adder([5, 6, 7], constant(addend, 4), [20, 21, 22, 23])}
    connections = {label: cell["connections"] for label, cell in merged(cells).items()}
    assert connections["first"]["Y"] == [20, 21, 22, 23]
    assert connections["second"]["Y"] == [30, 31, 32, 33, 34][:bits]


@pytest.mark.parametrize(("signs", "bits"), [("11", 4), ("00", 6), ("01", 6), ("10", 6)])
def test_unsigned_words_do_not_repeat_their_last_bit(signs, bits):
    y = [20, 21, 22, 23, 24, 25]
    assert merged({"sum": adder([5, 6, 7, 7], [8, 9, 10, 10], y, signs)})["sum"]["connections"]["Y"] == y[:bits]


def test_range_is_of_a_whole_word():
    # What begins like a word of which a range is known, and goes on otherwise.
    cells = {"narrow": adder([5, 6], ["0", "0"], [20, 21, 22, 23]), "other": adder([20, 7, 8, 9], ["0"], [30, 31, 32, 33, 34])}
    assert merged(cells)["other"]["connections"]["Y"] == [30, 31, 32, 33]


def test_one_instance_says_nothing_of_another():
    ports = {"clk": ("input", [2]), "none": ("input", []), "d": ("input", [5, 6, 7]), "q": ("output", [10, 11, 12])}
    ports = {port: {"direction": direction, "bits": bits} for port, (direction, bits) in ports.items()}
    part = {"ports": ports, "cells": {"r": register([5, 6, 7], [10, 11, 12])}, "netnames": {}}

    def instance(d: list[int], q: list[int]) -> dict:
        return {"type": "part", "parameters": {}, "connections": {"clk": [2], "d": d, "q": q}}

    # Words of the same range.
    cells = {"same": instance([30, 30, 31], [40, 41, 42]), "differ": instance([30, 32, 31], [43, 44, 45])}
    cells |= {"after_same": register([40, 41, 42], [50, 51, 52]), "after_differ": register([43, 44, 45], [53, 54, 55])}
    found = {label: cell["connections"] for label, cell in merged(cells, shared={"part": part}).items()}
    assert (found["after_same"]["Q"], found["after_differ"]["Q"]) == ([50, 52], [53, 54, 55])
    # The module is that of both.
    assert (found["same"]["d"], found["same"]["q"]) == ([30, 30, 31], [40, 41, 42])
    del cells["differ"], cells["after_differ"]
    found = merged(cells, shared={"part": part})["same"]["connections"]
    assert (found["d"], found["q"]) == ([30, 31], [40, 42])


class RandomPart:
    """Registers of sums of ports, of each other and of parts of them, with any signedness, enables, init and reset values."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = random.Random(seed)

        def shape(low: int, high: int):
            return rng.choice([signed, signed, unsigned])(rng.randrange(low, high))

        def init(shape) -> int:
            return rng.randrange(1 << shape.width) - (1 << shape.width - 1 if shape.signed else 0) if rng.random() < 0.3 else 0

        shapes = {"x": shape(1, 6), "y": shape(1, 6), "psum": shape(6, 20), "enable": unsigned(1), "clear": unsigned(1)}
        self.inputs = {name: Signal(shape, name=name) for name, shape in shapes.items()}
        shapes = {"psum": self.inputs["psum"].shape()} | {f"r{index}": shape(2, 16) for index in range(4)}
        self.outputs = {
            name: Signal(shape, name=f"{name}_out", init=init(shape), reset_less=rng.random() < 0.5)
            for name, shape in shapes.items()
        }
        self._cleared = {name: init(signal.shape()) for name, signal in self.outputs.items()}

    ports = Part.ports

    def module(self) -> Module:
        """Return what is inside, the same every time."""
        rng = random.Random(self._seed)
        m = Module()
        pool = [self.inputs[name] for name in ("x", "y", "psum")] + [*self.outputs.values()] * (self._seed % 2)

        def operand():
            value = rng.choice(pool)
            match rng.randrange(7):
                case 0:
                    return value.as_signed()
                case 1:
                    return value.as_unsigned()
                case 2:
                    return value[rng.randrange(len(value)) :].as_signed()
                case 3:
                    return Cat(value[:2], value[:2]).as_signed()
                case 4:
                    return Cat(Const(rng.randrange(2), 1), value).as_signed()
            return value

        for name, signal in self.outputs.items():
            value = self.inputs["psum"] + self.inputs["x"] if name == "psum" else operand()
            if rng.random() < 0.5 and name != "psum":
                value += operand()
            with m.If(self.inputs["enable"] if rng.random() < 0.3 else 1):
                m.d.sync += signal.eq(value)
            if rng.random() < 0.3:
                with m.If(self.inputs["clear"]):
                    m.d.sync += signal.eq(self._cleared[name])
        return m


class RandomLeads:
    """What leads to the ports of random parts: inputs, constants (bounds of the range too), the parts before, or one another."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, row, index: int, port: str):
        rng = random.Random(f"{self._seed} {port}" if self._seed % 3 else f"{self._seed} {port} {index}")
        inputs = row.inputs
        if port in ("enable", "clear"):
            return rng.choice([inputs[port]] * 4 + [Const(1), Const(0)])
        if port == "psum":
            before = row.parts[-1].outputs["psum"] if index else rng.choice([Const(0), Const(rng.randrange(-40, 40)), inputs["y"]])
            if rng.random() < 0.3:
                register = Signal(before.shape(), name=f"between{index}", init=rng.choice([0, 0, 1]))
                row.m.d.sync += register.eq(before)
                before = register
            return before + inputs["x"] if rng.random() < 0.2 else before
        x, y = inputs["x"], inputs["y"]
        choices = [x, y, inputs["u"], x[0].replicate(4), Cat(y, Const(0)), y + x]
        choices += [Const(value, signed(5)) for value in (-16, 15, rng.randrange(-16, 16))]
        choices += [row.parts[-1].outputs[f"r{rng.randrange(4)}"]] if index else []
        return rng.choice(choices)


@pytest.mark.parametrize("seed", range(10))
def test_random_chain_equals_amaranth(seed):
    check(lambda: RandomPart(seed), 1 + seed % 5, seed=seed, leads=RandomLeads(seed))


@pytest.mark.parametrize(("rows", "width", "above"), [(1, 16, None), (2, 17, 16), (5, 19, 18), (16, 20, 20), (17, 21, 20)])
def test_partial_sum_of_a_processing_element(rows, width, above):
    # Sums of products of 16 bits.
    for literal in (False, True):
        config = ArrayConfig(rows=rows, cols=1)
        pe, array = ProcessingElement(config), SystolicArray(config)
        parts = {PE_MODULE: (pe, named_ports(pe))}
        platform = SharedModules({PE_MODULE: pe})
        _, modules = read_design(array, "top", named_ports(array), parts, platform=platform, literal=literal)
        part = modules[PE_MODULE]
        assert len(part.outputs["psum_o"]) == (32 if literal else width)
        assert len(part.inputs.get("psum_i", ())) == (32 if literal else above or 0)
        assert width == bits_of(-rows << 15, (rows << 15) - rows)


def test_accelerator_with_nets_to_stick_keeps_them_all():
    names = generate_accelerator(ArrayConfig(rows=2, cols=1), nets=True)[1]["net_names"]
    assert {f"psum[{k}]" for k in range(32)} <= {*names}
