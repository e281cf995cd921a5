"""The accelerator's lane simulation: generated from the hardware description, compiled, cached."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from epsilon.config import ArrayConfig
from epsilon.garbage import uncollected
from sim.lanes.backend import Backend, build
from sim.program import beat_bytes
from sim.toolchain import built_once, cache_folder

__all__ = ["BuiltAccelerator", "build_accelerator", "generate_accelerator"]

SOURCE = Path(__file__).parents[2]
STREAMS = ("commands", "weights", "activations", "faults", "results", "readback", "signatures")


@dataclass(frozen=True, eq=False)
class BuiltAccelerator:
    """The library, the number of each PE in it by (row, column), and the names of the nets that can be stuck."""

    library: ctypes.CDLL
    instances: dict[tuple[int, int], int]
    net_names: list[str]


@uncollected()
def generate_accelerator(config: ArrayConfig, *, nets: bool = False) -> tuple[str, dict]:
    """Return the C text of an accelerator, and the facts about it that are needed to use it."""
    from hdl.accelerator import EpsilonAccelerator
    from hdl.array import PE_MODULE
    from hdl.pe import ProcessingElement
    from hdl.shared import SharedModules, named_ports
    from hdl.verilog import AXI_NAMES, TOP_MODULE
    from sim.lanes.elaborate import read_design
    from sim.lanes.generator import generate

    pe = ProcessingElement(config)
    parts = {PE_MODULE: (pe, named_ports(pe))}
    platform = SharedModules({PE_MODULE: pe})
    top = EpsilonAccelerator(config)
    netlist, shared = read_design(top, TOP_MODULE, named_ports(top, AXI_NAMES), parts, platform=platform, literal=nets)
    varying = {"weights_tdata", "activations_tdata"} | ({"faults_tdata"} if config.fault_injection else set())
    generated = generate(netlist, varying, shared, forced=frozenset(shared) if nets else frozenset())
    defines = [f"#define PLACE_{name} {port.place}" for name, port in generated.ports.items()]
    inputs = [port for port in generated.ports.values() if port.changed is not None]
    defines += [f"#define CHANGED_{port.name} {port.changed}" for port in inputs]
    defines += [f"#define BYTES_{name} {size}" for name, size in beat_bytes(config).items()]
    defines.append(f"#define HAVE_FAULTS {int(config.fault_injection)}")
    instances = {}
    for name, number in generated.instances.items():
        col, row = re.search(r"column_(\d+)\.pe_(\d+)$", name).groups()
        instances[f"{row},{col}"] = number
    facts = {"instances": instances, "net_names": generated.net_names.get(PE_MODULE, [])}
    return generated.source + "\n".join(defines) + "\n", facts


def build_accelerator(config: ArrayConfig, backend: Backend, *, nets: bool = False) -> BuiltAccelerator:
    """Return the compiled accelerator, from the cache or newly built (seconds).

    Raises
    ------
    ToolError
        When the C++ compiler is missing or fails.
    """

    def generate_into(work: Path) -> None:
        text, facts = generate_accelerator(config, nets=nets)
        (work / "accelerator.cpp").write_text(text)
        (work / "facts.json").write_text(json.dumps(facts))

    folder = built_once(cache_folder() / "lanes" / f"source-{_key(config, nets)}", generate_into)
    facts = json.loads((folder / "facts.json").read_text())
    library = build((folder / "accelerator.cpp").read_text(), backend, driver="driver.cpp")
    instances = {tuple(map(int, place.split(","))): number for place, number in facts["instances"].items()}
    return BuiltAccelerator(library, instances, facts["net_names"])


def _key(config: ArrayConfig, nets: bool) -> str:
    """Return a hash of everything that the generated text depends on."""
    state = hashlib.sha256(json.dumps([config.describe(), nets], sort_keys=True).encode())
    sources = [*sorted((SOURCE / "hdl").glob("*.py")), SOURCE / "epsilon" / "multipliers.py"]
    for source in [*sources, *sorted((SOURCE / "sim" / "lanes").glob("*.py"))]:
        state.update(source.read_bytes())
    return state.hexdigest()[:24]
