# amaranth: UnusedElaboratable=no
"""The accelerator between its streams: random tile sequences, with every stream resting at random, against plain numpy."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Fragment, Instance

from epsilon.accelerator import StuckBits, WeightWords
from epsilon.config import ArrayConfig
from hdl.accelerator import EpsilonAccelerator, accelerator_signature
from hdl.shared import SharedModules
from sim import cycles

INPUTS = ("commands", "weights", "activations", "faults")
OUTPUTS = ("results", "readback", "signatures")


def pack(values, width):
    """Return the payload of a beat from its elements, as an unsigned integer."""
    return sum((int(value) % (1 << width)) << (width * index) for index, value in enumerate(values))


def unpack(payload, count, width, *, is_signed=False):
    values = [payload >> (width * index) & ((1 << width) - 1) for index in range(count)]
    return [value - (1 << width) if is_signed and value >> (width - 1) else value for value in values]


class Bench:
    """Drives an accelerator through its streams, and keeps what comes out.

    ``pauses`` is the probability, by stream, that it rests in a cycle in which it could move.
    """

    def __init__(self, hardware, config, tiles, *, pauses=None, seed=0):
        self.hardware = hardware
        self.config = config
        self.dut = EpsilonAccelerator(config)
        self.pauses = pauses or {}
        self.rng = np.random.default_rng(seed)
        self.taken = {name: [] for name in OUTPUTS}
        self.cycles = None
        self.beats = {"commands": [], "weights": [], "activations": [], "faults": []}
        for tile in tiles:
            self._add(tile)

    def _add(self, tile):
        self.beats["commands"].append(self.hardware.command_value(tile.command()))
        self.beats["activations"] += [pack(vector, 8) for vector in tile.vectors]
        words = tile.words
        for row in reversed(range(self.config.rows)):
            beat = zip(words.code[row], words.invert[row], words.bypass[row], strict=True)
            self.beats["weights"].append(pack([self.hardware.word_value(*word) for word in beat], 16))
            if tile.stuck is not None:
                pairs = zip(tile.stuck.sa0[row], tile.stuck.sa1[row], strict=True)
                self.beats["faults"].append(pack([self.hardware.fault_value(*pair) for pair in pairs], 16))

    def run(self):
        inputs = [name for name in INPUTS if name != "faults" or self.config.fault_injection]
        sources = [self._source(name) for name in inputs]
        self.hardware.simulate(self.dut, *sources, self._finish, background=[self._sink(name) for name in OUTPUTS])
        return self

    def rests(self, name):
        return self.rng.random() < self.pauses.get(name, 0)

    def _source(self, name):
        stream = getattr(self.dut, name)

        async def source(ctx):
            for beat in list(self.beats[name]):
                while self.rests(name):
                    await ctx.tick()
                ctx.set(stream.payload.as_value(), beat)
                ctx.set(stream.valid, 1)
                await ctx.tick().until(stream.ready)
                ctx.set(stream.valid, 0)
                self.beats[name].pop(0)

        source.__name__ = f"source of {name}"
        return source

    def _sink(self, name):
        stream = getattr(self.dut, name)

        async def sink(ctx):
            held = None
            while True:
                ready = not self.rests(name)
                ctx.set(stream.ready, ready)
                _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload.as_value())
                if held is not None:
                    assert valid, f"{name} took back what it offered"
                    assert payload == held, f"{name} changed what it offered"
                held = payload if valid and not ready else None
                if valid and ready:
                    self.taken[name].append(payload)

        return sink

    async def _finish(self, ctx):
        dut = self.dut
        busy_cycles = 0
        while True:
            _, _, busy = await ctx.tick().sample(dut.busy)
            busy_cycles += busy
            if busy_cycles and not busy and not self.beats["commands"]:
                break
        self.cycles = ctx.get(dut.cycles)
        assert self.cycles == busy_cycles
        # Idle means idle: nothing comes afterwards, and the counter stands.
        await ctx.tick().repeat(3 * (self.config.rows + self.config.cols))
        for name in OUTPUTS:
            assert not ctx.get(getattr(dut, name).valid), f"{name} offers a beat while the accelerator is idle"
        assert not ctx.get(dut.busy)
        assert ctx.get(dut.cycles) == self.cycles

    def check(self, expected):
        cols = self.config.cols
        assert [unpack(beat, cols, 32, is_signed=True) for beat in self.taken["results"]] == expected.results
        assert [unpack(beat, cols, 16) for beat in self.taken["readback"]] == expected.readback
        assert [unpack(beat, cols, 64) for beat in self.taken["signatures"]] == expected.signatures
        assert not any(self.beats.values()), "the accelerator left input beats"


def random_sequence(hardware, config, seed, count=14):
    """Return tiles of all kinds, then two that push them out: no vector, one, many; reductions of one to three tiles."""
    rng = np.random.default_rng(seed)
    tiles = []
    while len(tiles) < count:
        length = int(rng.integers(1, 4))
        vectors = min(int(rng.choice([0, 1, 1, 2, config.rows, config.accumulator_depth])), config.accumulator_depth)
        for step in range(length):
            tiles.append(hardware.random_tile(rng, config, vectors=vectors, first=step == 0, last=step == length - 1))
    return [*tiles, hardware.plain_tile(config), hardware.plain_tile(config)]


CONFIGS = [
    dict(rows=1, cols=1, multiplier="KVP", accumulator_depth=1),
    dict(rows=1, cols=3, multiplier="L2N", accumulator_depth=4),
    dict(rows=3, cols=1, multiplier="KVP", accumulator_depth=3),
    dict(rows=2, cols=2, multiplier="KV6", accumulator_depth=5),
    dict(rows=3, cols=4, multiplier="KVP", accumulator_depth=6),
    dict(rows=2, cols=2, multiplier="KVP", accumulator_depth=3, level="gates"),
    dict(rows=2, cols=3, multiplier="adapt/mul8s_1L2H_adapt_table", accumulator_depth=3),
    dict(rows=2, cols=2, accumulator_depth=3, fault_injection=False),
    dict(rows=2, cols=2, accumulator_depth=3, repair=False),
    dict(rows=2, cols=2, accumulator_depth=3, fault_injection=False, repair=False),
]


def named(options):
    return "-".join(f"{value}" for value in options.values()).replace("/", "_")


@pytest.mark.parametrize("options", CONFIGS, ids=named)
@pytest.mark.parametrize("seed", [1, 2])
def test_sim_random_sequence_with_stalls(hardware, options, seed):
    config = ArrayConfig(**options)
    tiles = random_sequence(hardware, config, seed)
    pauses = dict(zip(INPUTS + OUTPUTS, np.random.default_rng(seed).choice([0.0, 0.2, 0.7], 7), strict=True))
    Bench(hardware, config, tiles, pauses=pauses, seed=seed).run().check(hardware.expect(config, tiles))


@pytest.mark.parametrize("stalled", INPUTS + OUTPUTS)
def test_sim_one_slow_stream(hardware, stalled):
    """Each stream in turn is the slowest by far; nothing is lost, doubled or reordered."""
    config = ArrayConfig(rows=2, cols=2, accumulator_depth=40)
    rng = np.random.default_rng(7)
    tiles = [hardware.random_tile(rng, config, vectors=n) for n in (0, 1, 3, 30, 0, 0, 2)]
    for tile in tiles:
        tile.stuck = StuckBits(*rng.integers(0, 256, (2, 2, 2)).astype(np.uint8))
        tile.readback = tile.signature = True
    tiles += [hardware.plain_tile(config), hardware.plain_tile(config)]
    Bench(hardware, config, tiles, pauses={stalled: 0.95}).run().check(hardware.expect(config, tiles))


@pytest.mark.parametrize("options", CONFIGS[:5], ids=named)
def test_sim_each_result_once(hardware, options):
    """Without stalls the sums are all distinct, in order, and each leaves exactly once."""
    config = ArrayConfig(**{**options, "multiplier": "KV6", "accumulator_depth": 64})
    ones = WeightWords.plain(np.ones((config.rows, config.cols), np.int8))
    counted = np.zeros((50, config.rows), np.int8)
    counted[:, 0] = np.arange(50)
    bench = Bench(hardware, config, [hardware.Tile(words=ones, vectors=counted)]).run()
    assert [unpack(beat, config.cols, 32) for beat in bench.taken["results"]] == [[n] * config.cols for n in range(50)]
    assert bench.cycles == cycles.program_cycles(config, [50])


@pytest.mark.parametrize("options", CONFIGS[:5], ids=named)
def test_sim_cycles_equal_model(hardware, options):
    """Without stalls the counter is the closed form, whatever is reported."""
    config = ArrayConfig(**options)
    for seed in (3, 4):
        tiles = random_sequence(hardware, config, seed, count=8)
        bench = Bench(hardware, config, tiles).run()
        bench.check(hardware.expect(config, tiles))
        assert bench.cycles == cycles.program_cycles(config, [len(tile.vectors) for tile in tiles])


def test_sim_reports_cost_no_cycle(hardware):
    config = ArrayConfig(rows=3, cols=2, accumulator_depth=8)
    counted = set()
    for readback, signature in itertools.product([False, True], repeat=2):
        rng = np.random.default_rng(11)
        tiles = [hardware.random_tile(rng, config, vectors=n) for n in (1, 0, 8, 2, 0, 4, 0, 0)]
        for tile in tiles:
            tile.readback, tile.signature = readback, signature
        bench = Bench(hardware, config, tiles).run()
        assert len(bench.taken["readback"]) == (6 * config.rows if readback else 0)
        assert len(bench.taken["signatures"]) == (6 if signature else 0)
        counted.add(bench.cycles)
    assert len(counted) == 1


def test_sim_masks_stay_until_replaced(hardware):
    """Stuck bits are those of the last tile with ``masks``, and none after reset."""
    config = ArrayConfig(rows=2, cols=2, accumulator_depth=1)
    words = WeightWords.plain(np.full((2, 2), 0x55, np.int8))
    vectors = np.full((1, 2), 8, np.int8)
    stuck = StuckBits(np.array([[1, 0], [0, 64]], np.uint8), np.array([[0, 128], [2, 0]], np.uint8))
    none = StuckBits(*np.zeros((2, 2, 2), np.uint8))
    tiles = [hardware.Tile(words=words, vectors=vectors, stuck=masks) for masks in (None, stuck, None, None, none, None)]
    bench = Bench(hardware, config, tiles).run()
    bench.check(hardware.expect(config, tiles))
    healthy, faulty = [2 * 8 * 0x55] * 2, [8 * (0x54 + 0x57), 8 * (0xD5 - 256 + 0x15)]
    assert [unpack(beat, 2, 32, is_signed=True) for beat in bench.taken["results"]] == [healthy, *[faulty] * 3, healthy, healthy]


def test_sim_amaranth_never_sees_an_instance(hardware):
    """Amaranth's simulator runs an Instance as 0, silently; only the export may contain them."""
    config = ArrayConfig(rows=2, cols=2, multiplier="KV6")
    tile = hardware.Tile(words=WeightWords.plain(np.full((2, 2), 3, np.int8)), vectors=np.full((1, 2), 5, np.int8))
    bench = Bench(hardware, config, [tile]).run()
    assert [unpack(beat, 2, 32) for beat in bench.taken["results"]] == [[30, 30]]
    assert not list(instances(Fragment.get(EpsilonAccelerator(config), None)))
    platform = SharedModules()
    found = list(instances(Fragment.get(EpsilonAccelerator(config), platform)))
    assert found.count("processing_column") == found.count("accumulator_column") == found.count("signature_column") == config.cols
    assert set(found) == platform.components.keys()
    parts = {}
    while missing := platform.components.keys() - parts:
        parts |= {name: list(instances(Fragment.get(platform.components[name], platform))) for name in missing}
    assert parts["processing_column"] == ["processing_element"] * config.rows


def instances(fragment):
    """Return the modules that are referred to, once for each instance."""
    for subfragment, *_ in fragment.subfragments:
        if isinstance(subfragment, Instance) or getattr(subfragment, "type", None):
            yield subfragment.type
        yield from instances(subfragment)


@pytest.mark.parametrize("fault_injection", [True, False])
def test_ports(fault_injection):
    members = accelerator_signature(ArrayConfig(rows=3, cols=5, fault_injection=fault_injection)).members
    assert set(members) == {*INPUTS[:3], *OUTPUTS, "busy", "cycles"} | ({"faults"} if fault_injection else set())
