# amaranth: UnusedElaboratable=no
"""The multiplier, exhaustively: netlist, word-level form, table, exact products and the published table are one function."""

import subprocess

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import data
from amaranth.sim import Simulator

from epsilon import multipliers
from epsilon.imported import from_table
from epsilon.imported.netlist import FIRST_GATE, OPERATIONS, GateNetlist
from epsilon.multipliers import Multiplier
from hdl.multiplier import LEVELS, MultiplierUnit
from sim.toolchain import cxx_compiler, find_verilator, run_tool

KEYS = list(multipliers.catalogue())


def random_netlist(seed: int, gates: int = 150) -> GateNetlist:
    """Return a netlist of random gates, the last ones its outputs."""
    rng = np.random.default_rng(seed)
    chosen = []
    for node in range(FIRST_GATE, FIRST_GATE + gates):
        operation = str(rng.choice(list(OPERATIONS)))
        # Constants and operands at any depth, mostly what was made just before.
        inputs = [int(rng.integers(0 if rng.random() < 0.3 else max(0, node - 20), node)) for _ in range(OPERATIONS[operation])]
        chosen.append((operation, tuple(inputs), f"U{node}.Y[{node % 3}]"))
    return GateNetlist(tuple(chosen), tuple(range(FIRST_GATE + gates - 16, FIRST_GATE + gates)))


def own_multipliers() -> list[Multiplier]:
    """Return multipliers of every form that an import has: gates signed and by sign-magnitude, with a mask, and looked-up maps."""
    netlist, small = random_netlist(1), GateNetlist((("and", (2, 10), "p"),), (FIRST_GATE, *[0] * 15))
    outputs = netlist.evaluate()
    codes = np.arange(-128, 128)
    logarithmic = np.sign(codes) * (1 << np.log2(np.abs(codes) + (codes == 0)).astype(int))
    return [
        from_table(np.roll(outputs.view(np.int16), (128, 128), axis=(0, 1)), "gates", netlist=netlist),
        from_table(outputs, "magnitudes", signed=False, netlist=netlist),
        from_table(np.roll(small.evaluate(), (128, 128), axis=(0, 1)), "masked_gates", netlist=small),
        from_table(multipliers.get("KVP").table().astype(np.int32) + 37, "compensated"),
        from_table(-np.multiply.outer(logarithmic, codes) + np.multiply.outer(codes // 3, logarithmic), "looked_up"),
    ]


OWN = {multiplier.key: multiplier for multiplier in own_multipliers()}
MULTIPLIERS = {**multipliers.catalogue(), **OWN}
#: Every multiplier at every level that it has: the adders of the one, the products of the other.
UNITS = [(key, level) for key in MULTIPLIERS for level in LEVELS if level == "words" or MULTIPLIERS[key].is_circuit]

MAIN = """
#include <cstdio>
#include <cstring>
#include <memory>
#include "Vunits.h"
int main(int, char** arguments) {
    VerilatedContext context;
    auto top = std::make_unique<Vunits>(&context);
    std::FILE* file = std::fopen(arguments[1], "wb");
    for (int pair = 0; pair < 65536; ++pair) {
        top->a = (pair >> 8) - 128;
        top->b = (pair & 255) - 128;
        top->eval();
        std::fwrite(&top->o, 4, UNITS, file);
    }
    return std::fclose(file);
}
"""


class _Units(Elaboratable):
    """All multipliers side by side on the same operands."""

    def __init__(self):
        self.a = Signal(signed(8))
        self.b = Signal(signed(8))
        self.o = Signal(data.ArrayLayout(signed(32), len(UNITS)))

    def elaborate(self, platform):
        m = Module()
        for index, (key, level) in enumerate(UNITS):
            unit = MULTIPLIERS[key].component(level)
            m.submodules[f"{level}_{key.replace('/', '_')}"] = unit
            m.d.comb += [unit.a.eq(self.a), unit.b.eq(self.b), self.o[index].eq(unit.o)]
        return m


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Run all 65,536 pairs through one Verilated model of all multipliers; return int32 (256, 256) by (key, level)."""
    work = tmp_path_factory.mktemp("multipliers")
    units = _Units()
    ports = [units.a, units.b, units.o.as_value()]
    (work / "units.v").write_text(verilog.convert(units, name="units", ports=ports, emit_src=False))
    (work / "main.cpp").write_text(MAIN)
    tool = find_verilator()
    run_tool(
        [str(tool.program), "--cc", "--prefix", "Vunits", "--top-module", "units", "--Mdir", ".", "-O3", "-Wno-lint", "units.v"],
        cwd=work,
        what="Verilator",
        env={"VERILATOR_ROOT": str(tool.root)},
    )
    include = tool.root / "include"
    sources = [*work.glob("Vunits*.cpp"), work / "main.cpp", include / "verilated.cpp", include / "verilated_threads.cpp"]
    defines = [f"-DUNITS={len(UNITS)}", "-DVM_TRACE=0", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVL_IGNORE_UNKNOWN_ARCH"]
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]
    options = ["-std=gnu++20", "-O1", "-w", "-pthread"]
    run_tool(
        [*cxx_compiler().split(), *options, *defines, *includes, *map(str, sources), "-o", "units"], cwd=work, what="The compiler"
    )
    subprocess.run([work / "units", work / "products.bin"], check=True)
    products = np.fromfile(work / "products.bin", dtype="<i4").reshape(256, 256, len(UNITS))
    return {unit: products[:, :, index] for index, unit in enumerate(UNITS)}


@pytest.fixture(scope="module")
def published(data_folder):
    path = data_folder.parent / "evoapprox" / "truth_tables.npz"
    if not path.is_file():
        pytest.skip(f"needs the published truth tables: {path} is not there")
    with np.load(path) as archive:
        return dict(archive)


def joined_terms(multiplier):
    """Return the table that the exact products add up to."""
    return sum(t.sign * np.multiply.outer(np.array(t.a_map, np.int64), np.array(t.b_map, np.int64)) for t in multiplier.terms)


@pytest.mark.parametrize(("key", "level"), UNITS)
def test_rtl_equals_table(simulated, key, level):
    assert np.array_equal(simulated[key, level], MULTIPLIERS[key].table())


@pytest.mark.parametrize("key", KEYS)
def test_terms_equal_table(key):
    multiplier = multipliers.get(key)
    assert np.array_equal(joined_terms(multiplier), multiplier.table())


@pytest.mark.parametrize("key", KEYS)
def test_table_equals_published(published, key):
    # The compatibility table goes by the circuit's plain name where it was published.
    name = "adapt/mul8s_1L2H" if key.startswith("adapt/") else key
    assert np.array_equal(multipliers.get(key).table(), published[name])


def test_every_published_circuit_is_in_the_catalogue(published):
    assert {name for name in published if not name.startswith("adapt/")} == {key for key in KEYS if not key.startswith("adapt/")}
    assert len(KEYS) == 27


def test_own_multipliers_have_every_form():
    gates, magnitudes, masked, compensated, looked_up = OWN.values()
    assert (gates.terms, magnitudes.terms) == (None, None)
    assert (gates.product_bits, magnitudes.product_bits, magnitudes.sign_magnitude) == (16, 17, True)
    assert masked.mask == bytes([1, *[0] * 7])
    assert (compensated.is_circuit, len(compensated.terms)) == (False, 4)
    assert {sign for term in looked_up.terms for sign in [term.a_mask, term.b_mask]} >= {None, 0xFF}


@pytest.mark.parametrize("index", range(2))
def test_sim_own_netlist(index):
    """Amaranth's simulator sees the gates as Verilator does."""
    multiplier = list(OWN.values())[index]
    unit = multiplier.component("words")
    rng = np.random.default_rng(2)

    async def bench(ctx):
        for a, b in [(-128, -128), (0, -1), *rng.integers(-128, 128, (40, 2)).tolist()]:
            ctx.set(unit.a, a)
            ctx.set(unit.b, b)
            await ctx.delay(1e-9)
            assert ctx.get(unit.o) == multiplier.table()[a + 128, b + 128]

    simulator = Simulator(unit)
    simulator.add_testbench(bench)
    simulator.run()


def test_operand_order():
    """A is the activation, B the weight: KVP ignores bit 0 of the activation and keeps (A & 0xF8) * B."""
    table = multipliers.get("KVP").table()
    assert table[1 + 128, 127 + 128] == 0
    assert table[8 + 128, 1 + 128] == 8
    assert table[2 + 128, 3 + 128] == 0
    assert table[3 + 128, 2 + 128] == 0
    assert table[127 + 128, 1 + 128] == 120
    assert table[1 + 128, 127 + 128] != table[127 + 128, 1 + 128]


@pytest.mark.parametrize("level", LEVELS)
def test_sim_operand_order(level):
    """The component's port a is the activation and b the weight."""
    unit = multipliers.get("KVP").component(level)

    async def bench(ctx):
        for a, b, product in ((127, 1, 120), (1, 127, 0), (8, 1, 8), (-128, -128, 16384), (-128, 127, -16256)):
            ctx.set(unit.a, a)
            ctx.set(unit.b, b)
            await ctx.delay(1e-9)
            assert ctx.get(unit.o) == product

    simulator = Simulator(unit)
    simulator.add_testbench(bench)
    simulator.run()


def test_component_parameters():
    unit = MultiplierUnit(multipliers.get("v1/mul8s_1L2H"), level="words")
    assert (unit.multiplier.key, unit.level) == ("v1/mul8s_1L2H", "words")


def test_init_wrong_level():
    with pytest.raises(ValueError, match=r"^The level of a multiplier must be one of gates, words, not 'cells'$"):
        MultiplierUnit(multipliers.get("KVP"), level="cells")


def test_init_wrong_table_alone():
    table = from_table(np.multiply.outer(np.arange(256), np.arange(256)) + 16 >> 5 << 5, "rounded", signed=False)
    for level in LEVELS:
        with pytest.raises(
            ValueError, match=r"^file/rounded-\w{8} is a table without a netlist that is no sum of few products: only "
        ):
            MultiplierUnit(table, level=level)


def test_init_wrong_table_without_netlist():
    with pytest.raises(ValueError, match=r"^adapt/mul8s_1L2H_adapt_table is a table without a netlist: use the level 'words'$"):
        MultiplierUnit(multipliers.get("adapt/mul8s_1L2H_adapt_table"), level="gates")
