"""The lane generator: the accelerator against Verilator, cycle by cycle and in every width, stuck nets, and what is refused."""

import re

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from epsilon.config import ArrayConfig
from hdl.layouts import Command
from sim.lanes import backend as backends
from sim.lanes.design import compile_design
from sim.lanes.gates import Graph, UnsupportedDesign
from sim.lanes.luts import cover
from sim.lanes.model import LaneProgram, LanesModel
from sim.program import Program, command_beats
from sim.verilated import SimulationError, VerilatedModel

CONFIG = ArrayConfig(rows=4, cols=3, level="gates", accumulator_depth=16)
STREAMS = ("results", "readback", "signatures")
PAUSES = {"commands": 0.3, "weights": 0.2, "activations": 0.4, "faults": 0.1, "results": 0.6, "readback": 0.3, "signatures": 0.3}


def random_program(config: ArrayConfig, lanes: int, seed: int, tiles: int = 12) -> LaneProgram:
    """Return random tiles, flags, data and faults; nothing but the commands is the same in all lanes."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 9, tiles)
    first, last, masks, readback, signature = rng.integers(0, 2, (5, tiles))
    first[0] = masks[0] = 1
    commands = command_beats(
        vectors=vectors,
        rows=rng.integers(0, config.rows + 1, tiles),
        cols=rng.integers(0, config.cols + 1, tiles),
        first=first,
        last=last,
        masks=masks,
        readback=readback,
        signature=signature,
        quartiles=rng.integers(-128, 128, 3),
    )

    def beats(count: int, size: int) -> np.ndarray:
        return rng.integers(0, 256, (lanes, count, size), dtype=np.uint8)

    shape = (int(masks.sum()) * config.rows, 2 * config.cols)
    return LaneProgram(
        commands=commands,
        weights=beats(tiles * config.rows, 2 * config.cols),
        activations=beats(int(vectors.sum()), config.rows),
        faults=beats(*shape) & beats(*shape) & beats(*shape),
        results=int(vectors[last == 1].sum()),
        readback=int(readback[:-2].sum()) * config.rows,
        signatures=int(signature[:-2].sum()),
    )


def of_lane(program: LaneProgram, lane: int) -> Program:
    streams = {name: getattr(program, name)[lane] for name in ("weights", "activations", "faults")}
    return Program(program.commands, **streams, **{name: getattr(program, name) for name in STREAMS})


def read_waves(path) -> list[dict[str, int]]:
    """Return the ports of the top module before each rising edge of a VCD, after the two cycles of the reset."""
    codes, values, cycles = {}, {}, []
    depth = 0
    header, *steps = path.read_text().split("\n#")
    for line in header.splitlines():
        words = line.split()
        depth += (words[:1] == ["$scope"]) - (words[:1] == ["$upscope"])
        if words[:2] == ["$var", "wire"] and depth == 1:
            codes[words[3]] = words[4]
    for step in steps:
        changes = {}
        for line in step.splitlines()[1:]:
            value, _, code = line.rpartition(" ") if line[0] == "b" else (line[0], "", line[1:])
            if code in codes:
                changes[codes[code]] = int(value.lstrip("b"), 2)
        if changes.get("clk") == 1 and values:
            cycles.append(dict(values))
        values |= changes
    return cycles[2:]


@pytest.fixture(scope="module")
def verilated():
    model = VerilatedModel(CONFIG)
    yield model
    model.close()


@pytest.mark.parametrize("pauses", [None, PAUSES], ids=["free", "stalls"])
def test_every_output_in_every_cycle_equals_verilator(pauses, tmp_path):
    lanes = 3
    program = random_program(CONFIG, lanes, 5)
    model = LanesModel(CONFIG, lanes=lanes)
    size = 8 + sum(model.beat_bytes[name] for name in STREAMS)
    trace = np.zeros((2000, lanes, size), dtype=np.uint8)
    run = model.run(program, max_cycles=2000, pauses=pauses, seed=9, trace=trace)
    for lane in range(lanes):
        waves = tmp_path / f"{lane}.vcd"
        reference = VerilatedModel(CONFIG, waves=waves)
        reference.run(of_lane(program, lane), max_cycles=2000, pauses=pauses, seed=9)
        reference.close()
        cycles = read_waves(waves)
        assert len(cycles) == run.clock_cycles > 50
        for number, ports in enumerate(cycles):
            record = trace[number, lane].tobytes()
            flags = int.from_bytes(record[:4], "little")
            names = [
                "busy",
                *(f"{s}_tready" for s in ("commands", "weights", "activations", "faults")),
                *(f"{s}_tvalid" for s in STREAMS),
            ]
            mine = {name: flags >> place & 1 for place, name in enumerate(names)}
            mine["cycles"] = int.from_bytes(record[4:8], "little")
            start = 8
            for name in STREAMS:
                mine[f"{name}_tdata"] = int.from_bytes(record[start : start + model.beat_bytes[name]], "little")
                start += model.beat_bytes[name]
            assert mine == {name: ports[name] for name in mine}, f"lane {lane}, cycle {number}"


@pytest.mark.parametrize("name", backends.available())
@pytest.mark.parametrize("threads", [1, 2])
def test_every_width_and_thread_count_equals_verilator(name, threads, verilated):
    lanes = 2 * backends.BACKENDS[name].lanes + 7
    program = random_program(CONFIG, lanes, 11)
    model = LanesModel(CONFIG, lanes=lanes, backend=name, threads=threads)
    run = model.run(program, max_cycles=5000, pauses=PAUSES, seed=3)
    for lane in (0, 63, lanes - 8, lanes - 1):
        reference = VerilatedModel(CONFIG).run(of_lane(program, lane), max_cycles=5000, pauses=PAUSES, seed=3)
        assert (run.busy_cycles, run.clock_cycles) == (reference.busy_cycles, reference.clock_cycles)
        for stream in STREAMS:
            np.testing.assert_array_equal(getattr(run, stream)[lane], getattr(reference, stream))


def test_words_without_faults_and_repair_equals_verilator():
    config = ArrayConfig(rows=2, cols=3, level="words", accumulator_depth=16, fault_injection=False, repair=False)
    program = random_program(config, 2, 4)
    program = LaneProgram(**{**vars(program), "faults": np.zeros((0, 2 * config.cols), np.uint8)})
    program.commands.view("<u8")[:] &= ~np.uint64(1 << Command.as_shape()["masks"].offset)
    run = LanesModel(config, lanes=2).run(program, max_cycles=2000)
    for lane in range(2):
        part = Program(
            program.commands,
            program.weights[lane],
            program.activations[lane],
            program.faults,
            **{s: getattr(program, s) for s in STREAMS},
        )
        reference = VerilatedModel(config).run(part, max_cycles=2000)
        for stream in STREAMS:
            np.testing.assert_array_equal(getattr(run, stream)[lane], getattr(reference, stream))


def test_stuck_nets_of_the_weight_register_equal_stuck_bits():
    program = random_program(CONFIG, 9, 21)
    # Nothing is left over in the accumulators from one run to the next.
    program.commands.view("<u8")[:] |= np.uint64(1 << Command.as_shape()["first"].offset)
    program = LaneProgram(**{**vars(program), "faults": np.zeros_like(program.faults), "weights": program.weights[0]})
    program = LaneProgram(**{**vars(program), "activations": program.activations[0]})
    model = LanesModel(CONFIG, lanes=9, nets=True)
    healthy = model.run(program, max_cycles=2000)
    assert (healthy.results == healthy.results[0]).all()
    names = model.net_names()
    assert len(set(names)) == len(names) > 300
    nets = [names.index(f"active[{bit}]") for bit in range(8)]
    model.reset()
    model.set_net_faults([(1 + bit, 2, 1, nets[bit], bit & 1) for bit in range(8)])
    run = model.run(program, max_cycles=2000)
    for bit in range(8):
        masks = np.zeros((CONFIG.rows, CONFIG.cols), np.uint16)
        masks[2, 1] = 1 << bit + (8 if bit & 1 else 0)
        stuck = masks[::-1].astype("<u2").view(np.uint8).reshape(CONFIG.rows, -1)
        loads = len(program.faults[0]) // CONFIG.rows
        single = LaneProgram(**{**vars(program), "faults": np.tile(stuck, (loads, 1))})
        expected = LanesModel(CONFIG, lanes=1).run(single, max_cycles=2000)
        np.testing.assert_array_equal(run.results[1 + bit], expected.results[0])
    np.testing.assert_array_equal(run.results[0], healthy.results[0])
    model.reset()
    model.set_net_faults([])
    np.testing.assert_array_equal(model.run(program, max_cycles=2000).results, healthy.results)


@pytest.mark.parametrize("busiest", ["weights", "activations", "faults"])
def test_a_stream_that_rests_equals_verilator(busiest):
    # All other inputs are offered rarely, so that one kind of state moves while the rest stands still.
    pauses = {name: 0.05 if name == busiest else 0.9 for name in ("weights", "activations", "faults")}
    program = random_program(CONFIG, 2, 31)
    run = LanesModel(CONFIG, lanes=2).run(program, max_cycles=20000, pauses=pauses, seed=4)
    for lane in range(2):
        reference = VerilatedModel(CONFIG).run(of_lane(program, lane), max_cycles=20000, pauses=pauses, seed=4)
        assert run.clock_cycles == reference.clock_cycles > 200
        for stream in STREAMS:
            np.testing.assert_array_equal(getattr(run, stream)[lane], getattr(reference, stream))


def test_nets_stuck_while_nothing_changes():
    config = ArrayConfig(rows=2, cols=2, level="gates", accumulator_depth=16)
    program = random_program(config, 3, 13)
    program.commands.view("<u8")[:] |= np.uint64(1 << Command.as_shape()["first"].offset)
    resting, fresh = LanesModel(config, lanes=3, nets=True), LanesModel(config, lanes=3, nets=True)
    fresh.run(program, max_cycles=2000)
    faults = [(lane, 1, lane % 2, net, lane % 2) for lane in range(1, 3) for net in (5, 80, 200)]
    resting.run(program, max_cycles=2000)
    resting.set_net_faults(faults)
    fresh.reset()
    fresh.set_net_faults(faults)
    for _ in range(2):
        # The second run sees what the first has left, stuck nets included.
        one, other = resting.run(program, max_cycles=2000), fresh.run(program, max_cycles=2000)
    for stream in STREAMS:
        np.testing.assert_array_equal(getattr(one, stream), getattr(other, stream))
    assert (one.results[0] != one.results[1]).any()


def test_init_wrong_lanes_backend_net():
    with pytest.raises(ValueError, match="positive integer, not 0"):
        LanesModel(CONFIG, lanes=0)
    with pytest.raises(ValueError, match="back end must be auto or one of"):
        LanesModel(CONFIG, backend="mmx")
    with pytest.raises(ValueError, match="no net 0 of the PE"):
        LanesModel(CONFIG, lanes=1).set_net_faults([(0, 0, 0, 0, 1)])


def test_processor_without_a_feature_does_not_get_its_back_end(monkeypatch):
    monkeypatch.setattr(backends, "processor_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(backends.platform, "machine", lambda: "x86_64")
    assert backends.available() == ["avx2", "sse2", "plain"]
    with pytest.raises(ValueError, match="cannot run the back end avx512"):
        backends.choose("avx512")


def test_program_that_does_not_end_is_refused():
    program = random_program(CONFIG, 1, 5)
    with pytest.raises(SimulationError, match="did not finish within 20 cycles"):
        LanesModel(CONFIG, lanes=1).run(program, max_cycles=20)


def test_beats_of_any_stride_are_those_of_their_copy():
    lanes, vectors = 5, 60
    commands = command_beats(
        vectors=np.array([vectors]), rows=CONFIG.rows, cols=CONFIG.cols, first=np.array([1]), last=np.array([1])
    )
    rng = np.random.default_rng(1)
    given = rng.integers(0, 256, (lanes, 2 * vectors, 2 * CONFIG.rows), dtype=np.uint8)
    weights = rng.integers(0, 256, (lanes, CONFIG.rows, 2 * CONFIG.cols), dtype=np.uint8)
    faults = np.zeros((0, 2 * CONFIG.cols), np.uint8)
    part = given[:, :vectors, : CONFIG.rows]
    for activations in (np.broadcast_to(part[:, :1], part.shape), given[:, ::2, : CONFIG.rows], part[::-1], part[:, ::-1]):
        runs = [
            LanesModel(CONFIG, lanes=lanes).run(
                LaneProgram(commands, weights, beats, faults, results=vectors, readback=0, signatures=0), max_cycles=1000
            )
            for beats in (activations, np.ascontiguousarray(activations))
        ]
        np.testing.assert_array_equal(runs[0].results, runs[1].results)


@pytest.mark.parametrize("cycles", [13, 21, 34, 61])
def test_reset_while_much_is_under_way_equals_verilator(cycles):
    program = random_program(CONFIG, 2, 6)
    models = [LanesModel(CONFIG, lanes=2), *(VerilatedModel(CONFIG) for _ in range(2))]
    runs = []
    for model, given in zip(models, (program, of_lane(program, 0), of_lane(program, 1)), strict=True):
        with pytest.raises(SimulationError, match=f"within {cycles} cycles"):
            model.run(given, max_cycles=cycles)
        model.reset()
        runs.append(model.run(given, max_cycles=2000))
    for lane, reference in enumerate(runs[1:]):
        assert runs[0].clock_cycles == reference.clock_cycles
        for stream in STREAMS:
            np.testing.assert_array_equal(getattr(runs[0], stream)[lane], getattr(reference, stream))


def test_cover_computes_the_same_function():
    graph = Graph()
    inputs = [graph.source(("input", "x", k)) for k in range(8)]
    goals = graph.multiply(inputs[:4] + [0] * 4, inputs[4:], b_signed=True)
    chosen = cover(graph, goals, lambda node: graph.op[node] == "src")
    for case in range(256):
        values = {0: 0, 1: 1, **{node: case >> k & 1 for k, node in enumerate(inputs)}}
        for node in sorted(chosen):
            leaves, table = chosen[node]
            bits = ([values[leaf] for leaf in leaves] + [0, 0])[:3]
            values[node] = table >> 4 * bits[0] + 2 * bits[1] + bits[2] & 1
        a, b = case % 16, (case >> 4 ^ 8) - 8
        assert sum(values[node] << k for k, node in enumerate(goals)) == a * b % 256


class Loop(Elaboratable):
    def elaborate(self, platform):
        m = Module()
        m.d.comb += [x.eq(y & a), y.eq(x | a)]
        return m


class VaryingAddress(Elaboratable):
    def elaborate(self, platform):
        m = Module()
        m.submodules.table = memory = Memory(shape=8, depth=4, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [write.addr.eq(a), write.data.eq(a), write.en.eq(1), x.eq(read.data)]
        return m


class Divider(Elaboratable):
    def elaborate(self, platform):
        m = Module()
        m.d.comb += x.eq(a // y)
        return m


class FallingEdge(Elaboratable):
    def elaborate(self, platform):
        m = Module()
        m.domains += falling
        m.d.falling += x.eq(a)
        return m


a, x, y = Signal(2, name="a"), Signal(2, name="x"), Signal(2, name="y")
falling = ClockDomain("falling", clk_edge="neg", reset_less=True)
PORTS = {"a": a, "x": x}


@pytest.mark.parametrize(
    ("design", "ports", "message"),
    [
        (Loop, PORTS, "combinational loop.*signal [xy]"),
        (VaryingAddress, PORTS, "The address or an enable of the memory table differs between lanes"),
        (Divider, PORTS | {"y": y}, "does not know the cell .* of type \\$divfloor"),
        (FallingEdge, PORTS | {"clk": falling.clk}, "x.0. is not clocked by the rising edge of clk"),
    ],
)
def test_design_that_it_cannot_handle_is_refused_by_name(design, ports, message):
    with pytest.raises(UnsupportedDesign) as refused:
        compile_design(design(), ports, varying_inputs={"a"})
    assert re.search(message, str(refused.value), re.DOTALL), refused.value
