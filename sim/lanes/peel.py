"""Registers that shared modules hand on as they are: moved out of them, so that chains of them become delay lines."""

from __future__ import annotations

from sim.lanes.hierarchy import ones_at_power_up

__all__ = ["peel_registers"]


def peel_registers(module: dict, shared: dict[str, dict]) -> tuple[dict, dict[str, dict]]:
    """Return a module and those that its instances are of with such registers in the former.

    A register qualifies if it is the only reader of an input and all of an output, always takes the input and begins as 0. Its
    instances then have the register's value for an input, and the output no more.

    Parameters
    ----------
    module : dict
        Flat, in the form of Yosys' JSON; so are the shared ones.
    shared : dict
        The modules that its instances are of, by name.
    """
    inside = dict(shared)
    cells = dict(module["cells"])
    for kind, part in shared.items():
        instances = [label for label, cell in cells.items() if cell["type"] == kind]
        for label, source, target in _passes(part):
            ports = part["ports"]
            wired = all({source, target, "clk"} <= cells[instance]["connections"].keys() for instance in instances)
            if not wired:
                continue
            remaining = {port: facts for port, facts in ports.items() if port != target}
            remaining[source] = ports[source] | {"bits": ports[target]["bits"]}
            part = part | {"ports": remaining, "cells": {name: cell for name, cell in part["cells"].items() if name != label}}
            for instance in instances:
                connections = dict(cells[instance]["connections"])
                d, q = connections[source], connections.pop(target)
                cells[f"{instance}.{target}"] = {
                    "type": "$dff",
                    "hide_name": 1,
                    "attributes": {},
                    "parameters": {"CLK_POLARITY": "1"},
                    "port_directions": {"CLK": "input", "D": "input", "Q": "output"},
                    "connections": {"CLK": connections["clk"], "D": d, "Q": q},
                }
                cells[instance] = cells[instance] | {"connections": connections | {source: q}}
        inside[kind] = part
    return module | {"cells": cells}, inside


def _passes(part: dict) -> list[tuple[str, str, str]]:
    """Return the registers of a module that qualify, as (cell, input, output)."""
    ports = {name: facts["bits"] for name, facts in part["ports"].items()}
    inputs = {tuple(bits): name for name, bits in ports.items() if part["ports"][name]["direction"] == "input"}
    outputs = {tuple(bits): name for name, bits in ports.items() if name not in inputs.values()}
    uses: dict[int | str, int] = {}
    for bits in [*(bits for name, bits in ports.items() if name not in inputs.values()), *_read(part)]:
        for bit in bits:
            uses[bit] = uses.get(bit, 0) + 1
    ones = ones_at_power_up(part)
    found = []
    for label, cell in part["cells"].items():
        if cell["type"] == "$dff" and cell["connections"]["CLK"] == ports.get("clk") and int(cell["parameters"]["CLK_POLARITY"], 2):
            d, q = tuple(cell["connections"]["D"]), tuple(cell["connections"]["Q"])
            if d in inputs and q in outputs and all(uses[bit] == 1 for bit in d) and not ones.intersection(q):
                found.append((label, inputs[d], outputs[q]))
    return found


def _read(part: dict) -> list[list]:
    """Return the words that the cells of a module read."""
    return [
        bits
        for cell in part["cells"].values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] != "output"
    ]
