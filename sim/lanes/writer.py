"""The C file of a generated simulation: functions, tables, and the three steps init, settle and edge."""

from __future__ import annotations

from itertools import groupby

from sim.lanes.clusters import ClusterClass
from sim.lanes.instances import PlacedInstance
from sim.lanes.layout import MOST_VECTORS, WINDOW
from sim.lanes.schedule import Unit

__all__ = ["write_source"]

#: Columns of the tables that ``registers``, ``rings`` and ``delay_bits`` of runtime.h take; of lines behind the number of the line.
REGISTER = ("guard", "target", "source", "count", "reset", "if_changed", "changed", "cleared")
RING = ("reset", "source", "count", "ring", "stages", "first", "last", "if_changed", "cleared", "begin", "end")
BIT_LINE = ("reset", "target", "source", "count", "ring", "stages", "first", "last")


def write_source(generator, order: list[Unit], clusters: list[ClusterClass]) -> str:
    """Return the C file; it needs runtime.h, and defines what that declares."""
    layout = generator.layout
    instances = generator.instances.placed
    number = {placed: index for index, placed in enumerate(instances)}
    functions = [kind.source() for kind in generator.kinds.values()]
    functions += [cluster.source for cluster in clusters]
    tables: list[str] = []
    edge, turns = _edge(generator, order, tables, number)
    settle = list(generator.before)
    for index, cluster in enumerate(clusters):
        width = max(len(call) for call in cluster.calls)
        tables.append(_table(f"calls{index}", cluster.calls, width))
        call = f"if (ENABLED(calls{index}[i][0])) {cluster.name}(sim, calls{index}[i]);"
        settle.append(f"for (int i = 0; i < {len(cluster.calls)}; ++i) {call}")
    # Gathers read clusters and old state, never each other.
    gathers = [[layout.scalar(c.guard) if c.guard > 1 else -1, c.target, c.source, c.count] for c in layout.gathers if c.guard != 0]
    if gathers:
        tables.append(_table("gathers", gathers, 4))
        settle.append(f"copies(sim, gathers, {len(gathers)});")
    control = generator.control()
    refresh = []
    for placed in instances:
        refresh.append([placed.hot, placed.cold, list(generator.kinds).index(placed.instance.kind)])
    if refresh:
        tables.append(_table("instances", refresh, 3))
    tables.append(_table("initial", [[place] for place, _ in generator.init] or [[-1]], 1))
    tables.append(_table("initial_bits", [[place] for place, _ in generator.bit_init] or [[-1]], 1))
    tables.append(_table("flags", [[place] for place in layout.flags], 1))
    lines = sum(unit.what in ("line", "bit_line") for unit in order)
    activity = []
    if triggers := sorted(generator.instances.triggers):
        # While data flow, those of the inputs are set, which come first.
        tables.append(_table("triggers", [[place] for place in triggers], 1))
        activity = ["uint8_t active = 0;", f"for (int i = 0; i < {len(triggers)} && !active; ++i) active = b[triggers[i][0]];"]
    text = [
        f"enum {{ VECTORS = {layout.vectors}, BITS = {max(layout.bits, 1)} }};",
        f"enum {{ LINES = {max(lines, 1)}, INSTANCES = {len(instances)} }};",
        f"enum {{ WINDOWS = {max(layout.windows, 1)}, WINDOW = {WINDOW}, MOST_VECTORS = {MOST_VECTORS} }};",
        '#include "runtime.h"',
        *functions,
        *tables,
        # The search for neighbouring scalars to join finds few, and takes as long as all else that is done to this function.
        '__attribute__((optimize("no-tree-slp-vectorize"))) static void control(V *__restrict s, uint8_t *__restrict b) {',
        *control,
        "}",
        "static void settle(Simulation *sim) {",
        "V *const s = sim->s; uint8_t *const b = sim->b; (void)s;",
        "control(s, b);",
        *settle,
        "}",
        "static void edge(Simulation *sim) {",
        "V *const s = sim->s; uint8_t *const b = sim->b; (void)s;",
        *activity,
        *edge,
        f"b[{layout.fresh}] = 0;",
        f"memcpy(b + {generator.scalar_start}, b + {generator.next_start}, {generator.scalar_count});",
        "}",
        *_init(generator, turns, bool(refresh)),
    ]
    return "\n".join(text) + "\n"


def _table(name: str, rows: list[list[int]], width: int) -> str:
    body = ",\n".join("{" + ",".join(map(str, row)) + "}" for row in rows)
    return f"static const int32_t {name}[{len(rows)}][{width}] = {{\n{body}}};"


def _edge(generator, order: list[Unit], tables: list[str], number: dict[PlacedInstance, int]) -> tuple[list[str], list[str]]:
    """Return the statements of the clock edge, and those that find the stages of the delay lines."""
    text = []
    turns = []
    lines = 0
    windows: list[list[int]] = []
    groups = _grouped(generator, order)
    approached, per_group = 0, -(-len(generator.approaches) // max(1, sum(what == "instance" for (what, _), _ in groups)))
    for group, ((what, _), units) in enumerate(groups):
        codes = [generator.code[unit] for unit in units]
        if what == "instance":
            text += generator.approaches[approached : approached + per_group]
            approached += per_group
        if what == "copy":
            tables.append(_table(f"group{group}", [[c[key] for key in REGISTER] for c in codes], len(REGISTER)))
            text.append(f"registers(sim, group{group}, {len(codes)});")
        elif what in ("line", "bit_line"):
            columns, function = (RING, "rings") if what == "line" else (BIT_LINE, "delay_bits")
            if what == "line":
                for code in codes:
                    code["begin"] = len(windows)
                    windows += [[number, stage, flag] for stage, number, flag in code["windows"]]
                    code["end"] = len(windows)
                turns.append(f"for (int i = 0; i < {len(codes)}; ++i) turn(sim, group{group}[i], windows);")
            rows = [[lines + index, *(c[key] for key in columns)] for index, c in enumerate(codes)]
            lines += len(codes)
            tables.append(_table(f"group{group}", rows, len(rows[0])))
            text.append(f"{function}(sim, group{group}, {len(codes)}{', windows' if what == 'line' else ''});")
        elif what == "instance":
            rows, call = _calls(codes, number)
            tables.append(_table(f"group{group}", rows, len(rows[0])))
            text.append(f"for (int i = 0; i < {len(rows)}; ++i) {{ const int32_t *const t = group{group}[i]; {call} }}")
        elif what == "write":
            text += [line for code in codes for line in code["lines"]]
        else:
            text += codes
    # Before the tables of the lines, which it goes with.
    tables.insert(0, _table("windows", windows or [[-1]], 3))
    return text, turns


def _grouped(generator, order: list[Unit]) -> list[tuple[tuple[str, str], list[Unit]]]:
    """Return the units that share a table, those of instances in parts between which memory can be asked for a word each."""
    # Memory is slow, and has time while the instances compute.
    step = max(1, len(generator.top.instances) // max(1, len(generator.approaches)))
    groups = []
    for key, run in groupby(order, key=lambda unit: (unit.what, _kind_of(generator, unit))):
        units = list(run)
        length = step if key[0] == "instance" else len(units)
        groups += [(key, units[start : start + length]) for start in range(0, len(units), length)]
    return groups


def _calls(codes: list[dict], number: dict[PlacedInstance, int]) -> tuple[list[list[int]], str]:
    """Return the table of a group of instances of the same kind, and the call for a row ``t`` of it."""
    kind = codes[0]["placed"].kind
    rows = []
    for code in codes:
        placed = code["placed"]
        own = [placed.hot, placed.bits, number[placed], placed.cold]
        rows.append([*own, *code["ports"], *code["if_changed"], *placed.handed])
    vectors, bits = len(kind.vector_ports), len(kind.bit_ports)
    first_flag = 4 + vectors + bits
    first_handed = first_flag + vectors
    windowed = [any(row[4 + k] >= WINDOW for row in rows) for k in range(vectors)]
    arguments = ["s + t[0]", "s + t[3]", "b + t[1]", *(f"s + t[{first_handed + k}]" for k in range(len(kind.handed)))]
    arguments += [f"at(sim, t[{4 + k}])" if moves else f"s + t[{4 + k}]" for k, moves in enumerate(windowed)]
    arguments += [f"b + t[{4 + vectors + k}]" for k in range(bits)]
    arguments += [f"b[t[{first_flag + k}]]" for k in range(vectors)]
    arguments += ["active"] if kind.handed else []
    call = f"{kind.name}({', '.join(arguments)});"
    if kind.forced:
        stuck = f"forced_{kind.name}({', '.join([*arguments, 'f', f'f + {len(kind.nets())}'])});"
        call = f"const V *const f = sim->stuck[t[2]]; if (f) {stuck} else {call}"
    return rows, call


def _kind_of(generator, unit: Unit) -> str:
    return generator.code[unit]["placed"].kind.name if unit.what == "instance" else ""


def _init(generator, turns: list[str], instances: bool) -> list[str]:
    text = ["static void refresh(Simulation *sim, int i) {", "(void)sim; (void)i;"]
    if instances:
        text += ["V *const s = sim->s + instances[i][0], *const g = sim->s + instances[i][1];", "switch (instances[i][2]) {"]
        for index, kind in enumerate(generator.kinds.values()):
            call = f"refresh_{kind.name}(s, g);"
            if kind.forced:
                pointers = f"sim->stuck[i], sim->stuck[i] + {len(kind.nets())}"
                call = f"if (sim->stuck[i]) forced_refresh_{kind.name}(s, g, {pointers}); else {call}"
            text.append(f"case {index}: {call} break;")
        text.append("}")
    nets = [
        f"case {index}: return {len(kind.nets()) if kind.forced else 0};" for index, kind in enumerate(generator.kinds.values())
    ]
    switch = ["switch (instances[i][2]) {", *nets, "}"] if instances else []
    return [
        *text,
        "}",
        "static int nets_of(int i) {",
        *switch,
        "(void)i; return 0;",
        "}",
        "static void disturb(Simulation *sim) {",
        f"for (int i = 0; i < {len(generator.layout.flags)}; ++i) sim->b[flags[i][0]] = 1;",
        "memset(sim->history, -1, LINES * sizeof *sim->history);",
        "}",
        "static void init(Simulation *sim) {",
        "sim->s[1] = ALL;",
        f"for (int i = 0; i < {len(generator.init)}; ++i) sim->s[initial[i][0]] = ALL;",
        f"for (int i = 0; i < {len(generator.bit_init)}; ++i) sim->b[initial_bits[i][0]] = 1;",
        *turns,
        "for (int i = 0; i < INSTANCES; ++i) refresh(sim, i);",
        "disturb(sim);",
        "}",
    ]
