"""Parts of the hardware that occur many times: real submodules in a simulation, one module with many instances in an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amaranth.back.rtlil import Design, EmptyModuleChecker, ModuleEmitter
from amaranth.hdl import ClockSignal, Fragment, Instance, Module, ResetSignal, Shape, ShapeCastable, Signal, Value
from amaranth.hdl._ast import SignalDict
from amaranth.hdl._ir import build_netlist
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from epsilon.garbage import uncollected

__all__ = ["SharedModules", "SharedPart", "named_ports", "place_shared", "to_rtlil"]


class SharedModules:
    """Elaboration platform of the exports: a design refers to its repeated parts instead of carrying a copy of each.

    Parameters
    ----------
    components : dict, optional
        Parts that are there already, by the name of their module.

    Amaranth's own simulator, which would run an ``Instance`` as 0, elaborates without a platform and so always gets real parts.

    Members
    -------
    components : the parts that the design refers to, by the name of their module; filled while it is elaborated.
    """

    def __init__(self, components: dict[str, wiring.Component] | None = None) -> None:
        self.components = dict(components or {})


class SharedPart:
    """Wires to the ports of an instance; the attributes are those of the component that stands behind it."""


def place_shared(m: Module, platform, name: str, module: str, make: Callable[[], wiring.Component]):
    """Add a part called ``name`` to a design, and return what its ports are attributes of.

    Parameters
    ----------
    platform
        ``SharedModules`` for an instance of ``module``, anything else for a submodule of its own.
    make : callable
        Returns the part; all parts of a module are the same, with members that are no interfaces themselves.
    """
    if not isinstance(platform, SharedModules):
        m.submodules[name] = part = make()
        return part
    if module not in platform.components:
        platform.components[module] = make()
    part, ports = SharedPart(), {}
    for port, member in platform.components[module].signature.members.items():
        # Without its fields, of which the export would make wires again, for every instance.
        shape = Shape.cast(member.shape)
        wire = Signal(shape, name=f"{name}_{port}")
        ports[f"{'i' if member.flow is In else 'o'}_{port}"] = wire
        setattr(part, port, member.shape(wire) if isinstance(member.shape, ShapeCastable) else wire)
    m.submodules[name] = Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
    return part


def named_ports(component: wiring.Component, names: Mapping[str, str] | None = None) -> dict:
    """Return a component's signals by port name; ``names`` replaces parts of the names, as ``AXI_NAMES`` does."""
    names = names or {}
    return {"_".join(names.get(part, part) for part in path): signal for path, _, signal in component.signature.flatten(component)}


class _BareModule(ModuleEmitter):
    """See ``to_rtlil``."""

    def emit_signal_fields(self) -> None:
        """Emit none."""

    def emit_memory(self, cell_idx: int, cell) -> None:
        """Emit the contents of a memory, unless they are all zeros."""
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


@uncollected()
def to_rtlil(
    component,
    name: str,
    ports: Mapping[str, object],
    *,
    platform: SharedModules | None,
    apart: frozenset = frozenset(),
    bare: bool = False,
) -> str:
    """Return a design as RTLIL, with the modules that it refers to but those ``apart``.

    Parameters
    ----------
    ports : mapping
        The signals to be ports, by name.
    platform : SharedModules or None
        None for a design that refers to no other modules.
    bare : bool
        Without what only a reader of the text needs, most of it for a wide array: a wire for every field of every signal, and the
        contents of memories of which every bit begins as 0 (a memory without contents then means zeros).
    """
    emitter = _BareModule if bare else ModuleEmitter

    def convert(component, name: str, ports: Mapping[str, object]) -> str:
        signals = {port: (Value.cast(signal), None) for port, signal in ports.items()}
        netlist = build_netlist(Fragment.get(component, platform), signals, name=name)
        design, checker, names = Design(emit_src=False), EmptyModuleChecker(netlist), SignalDict()
        for index, module in enumerate(netlist.modules):
            if not checker.is_empty(index):
                builder = design.module(".".join(module.name))
                if index == 0:
                    builder.attribute("top", 1)
                emitter(builder, netlist, module, names, empty_checker=checker).emit()
        return str(design)

    text = [convert(component, name, ports)]
    done = set(apart)
    while isinstance(platform, SharedModules) and (missing := [module for module in platform.components if module not in done]):
        for module in missing:
            part = platform.components[module]
            text.append(convert(part, module, named_ports(part)))
            done.add(module)
    return "".join(text)
