"""The NEON back end on any machine: cross-compiled, run by an emulator of the processor, equal to the native one of its width."""

import shutil
import subprocess

import pytest
from lane_grid import Grid

from sim.lanes import backend as backends
from sim.lanes.elaborate import read_design
from sim.lanes.generator import generate

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
#: Drives a design with numbers that do not depend on the machine, and prints all outputs of every cycle.
MAIN = """
#include <cstdio>
static uint64_t state = 88172645463325252ULL;
static uint64_t random_word() { state ^= state << 13; state ^= state >> 7; return state ^= state << 17; }
int main() {
    Simulation *sim = lanes_new();
    for (int cycle = 0; cycle < 120; ++cycle) {
        const bool busy = cycle % 40 < 25;
        for (auto &port : inputs) {
            if (!busy && random_word() % 8) continue;
            for (int bit = 0; bit < port[2]; ++bit)
                if (port[0]) for (int k = 0; k < LANES / 64; ++k) ((uint64_t *)(sim->s + port[1] + bit))[k] = random_word();
                else sim->b[port[1] + bit] = random_word() & 1;
            if (port[0]) sim->b[port[3]] = 1;
        }
        sim->b[RESET] = cycle == 0 || cycle == 50;
        lanes_settle(sim);
        for (auto &port : outputs) {
            const uint64_t *const words = (const uint64_t *)(sim->s + port[1]);
            for (int k = 0; k < port[2] * LANES / 64; ++k) printf("%016llx ", (unsigned long long)words[k]);
        }
        puts("");
        lanes_edge(sim);
        for (auto &port : inputs) if (port[0]) sim->b[port[3]] = 0;
    }
}
"""


@pytest.mark.parametrize("seed", [3, 5])
def test_neon_equals_the_native_back_end_of_its_width(seed, tmp_path):
    missing = [tool for tool in (CROSS, EMULATOR) if shutil.which(tool) is None]
    if missing or "sse2" not in backends.available():
        pytest.skip(f"needs an x86 processor, {CROSS} and {EMULATOR}")
    grid = Grid(seed)
    top, shared = read_design(grid, "top", grid.ports, {"node": grid.node()}, platform=object())
    generated = generate(top, set(grid.varying), shared)
    ports = list(generated.ports.values())

    def table(name: str, chosen: list) -> str:
        rows = ",".join(f"{{{int(p.varying)},{p.place},{p.width},{p.changed or 0}}}" for p in chosen)
        return f"static const int {name}[][4] = {{{rows}}};"

    inputs = [port for port in ports if port.is_input and port.name not in ("clk", "rst")]
    outputs = [port for port in ports if not port.is_input and port.varying]
    text = [generated.source, table("inputs", inputs), table("outputs", outputs)]
    text += [f"enum {{ RESET = {generated.ports['rst'].place} }};", MAIN]
    (tmp_path / "main.cpp").write_text("\n".join(text))
    seen = []
    for name, compiler, runner in (("sse2", "g++", []), ("neon", CROSS, [EMULATOR])):
        backend = backends.BACKENDS[name]
        flags = [flag for flag in backends.FLAGS if flag not in ("-shared", "-fPIC")]
        command = [compiler, *flags, *backend.flags, f"-DLANES={backend.lanes}", f"-I{backends.HERE}", "-static"]
        subprocess.run([*command, "main.cpp", "-o", name], cwd=tmp_path, check=True)
        seen.append(subprocess.run([*runner, str(tmp_path / name)], capture_output=True, text=True, check=True).stdout)
    native, emulated = seen
    assert len(set(native.split())) > 100
    assert emulated == native
