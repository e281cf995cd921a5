"""C functions of the modules that are compiled once and called for each of their instances."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sim.lanes.emitter import Emitter, reuse_operands
from sim.lanes.gates import ONE, UnsupportedDesign
from sim.lanes.names import name_nets
from sim.lanes.netlist import Netlist, Register
from sim.lanes.plan import Varying, next_state, readers_first

__all__ = ["Kind"]


@dataclass(eq=False)
class _Update:
    """A register, the guard under which it changes, and what to."""

    register: Register
    guard: int
    values: list[int]


class Kind:
    """Layout of an instance's state and the functions that renew it.

    An instance keeps ``vectors`` vectors and ``bits`` scalars; ``vector_at`` and ``bit_at`` tell where its registers are.
    The first ``hot`` vectors are used in every cycle; the others, which change under a guard, are kept elsewhere.
    What hangs only on registers that change under a guard is computed when they change and kept (``kept``), not in every cycle.
    Some scalars are flags (``flags``; ``flag_at`` by node of a register): whether the last edge may have changed the register; for
    one with a guard another says whether anything that it reads may have changed since it last took it (``_waiting``). What reads
    only registers and ports that have not changed is not computed again.

    Parameters
    ----------
    name : str
        Of the C function; ``refresh_<name>`` computes what is kept.
    forced : bool
        Generate ``forced_<name>`` too, in which every net that varies can be stuck.
    handed : sequence of str
        Outputs (``can_hand_on``) that are kept where the caller wants, perhaps only until others have read them; see ``triggers``.

    Raises
    ------
    UnsupportedDesign
        When the module has a memory, instances of its own, or an output that depends on an input combinationally.
    """

    def __init__(self, name: str, netlist: Netlist, varying: Varying, *, forced: bool = False, handed: Sequence[str] = ()) -> None:
        self.name = name
        self.handed = tuple(handed)
        #: By node: which of the outputs it belongs to, and its place there.
        self._handed_at = {node: (k, i) for k, port in enumerate(handed) for i, node in enumerate(netlist.outputs[port])}
        self.netlist = netlist
        self.varying = varying
        self.forced = forced
        if netlist.memories or netlist.instances:
            inside = (netlist.memories or netlist.instances)[0].name
            raise UnsupportedDesign(f"The shared module {netlist.name} must not have memories or instances, such as {inside}")
        self.updates = []
        for register in netlist.registers:
            guard, values = next_state(netlist, varying, register)
            self.updates.append(_Update(register, guard, values))
        # What changes in every cycle lies together, and so does what hardly ever does.
        self.updates.sort(key=lambda update: update.guard != ONE)
        self.vector_at: dict[int, int] = {}
        self.bit_at: dict[int, int] = {}
        self.init: list[int] = []
        self.bit_init: list[int] = []
        self._place(guarded=False)
        self.kept = self._choose_kept()
        for node in self.kept:
            self.vector_at[node] = len(self.init)
            self.init.append(0)
        self.hot = max(len(self.init), 1)
        self.init += [0] * (self.hot - len(self.init))
        self._place(guarded=True)
        self.flag_at: dict[int, int] = {}
        self.flags: list[int] = []
        for update in self.updates:
            if varying.any(update.register.q):
                self.flags.append(len(self.bit_init))
                self.flag_at.update(dict.fromkeys(update.register.q, len(self.bit_init)))
                self.bit_init.append(1)
        self._waiting: dict[int, int] = {}
        for update in self.updates:
            if update.guard != ONE and varying.any(update.register.q):
                self._waiting[id(update)] = len(self.bit_init)
                self.flags.append(len(self.bit_init))
                self.bit_init.append(1)
        self.vector_ports = [port for port, nodes in sorted(netlist.inputs.items()) if varying.any(nodes)]
        self.bit_ports = [port for port in sorted(netlist.inputs) if port not in self.vector_ports and port != "clk"]
        for port, nodes in netlist.outputs.items():
            for node in nodes:
                if node > ONE and not any(node in places for places in (self.vector_at, self.bit_at, self._handed_at)):
                    raise UnsupportedDesign(f"The output {port} of the shared module {netlist.name} does not come from a register")

    @property
    def vectors(self) -> int:
        return len(self.init)

    @property
    def bits(self) -> int:
        return len(self.bit_init)

    def at(self, node: int) -> str:
        """Return the C expression of a node of the state."""
        if node in self._handed_at:
            number, index = self._handed_at[node]
            return f"o{number}[{index}]"
        place = self.vector_at[node]
        return f"s[{place}]" if place < self.hot else f"g[{place - self.hot}]"

    def can_hand_on(self, port: str) -> bool:
        """Whether an output is a register that is renewed in every cycle and that nothing inside reads."""
        nodes = self.netlist.outputs[port]
        update = next((update for update in self.updates if update.register.q == nodes), None)
        if update is None or update.guard != ONE or not self.varying.any(nodes) or any(update.register.init):
            return False
        read = self._cone([node for other in self.updates for node in (*other.values, other.guard)])
        others = [node for other, word in self.netlist.outputs.items() if other != port for node in word]
        return read.isdisjoint(nodes) and not set(nodes).intersection(others)

    def triggers(self) -> set[int | str] | None:
        """Return the flags and ports of which one has changed if what is handed on may have: the caller has all computed then.

        None stands for always.
        """
        handed = [self._changes(update) for update in self.updates if update.register.q[0] in self._handed_at]
        return None if None in handed else set().union(*handed)

    def nets(self) -> list[int]:
        """Return the nodes that can be stuck, in the order of their masks."""
        graph = self.netlist.graph
        used = self._cone([node for update in self.updates for node in (*update.values, *update.register.q)])
        return sorted(node for node in used if self.varying(node) and graph.op[node] != "const")

    def net_names(self) -> list[str]:
        """Return the names of ``nets``: of the hardware description, or by the net or register whose logic they are part of."""
        given = self.netlist.names
        goals = [
            (re.sub(r"(\[\d+\])?$", r".d\1", given.get(q, update.register.name), count=1), value)
            for update in self.updates
            for q, value in zip(update.register.q, update.values, strict=True)
        ]
        names = name_nets(self.netlist.graph, given, goals)
        return [names[node] for node in self.nets()]

    def _place(self, *, guarded: bool) -> None:
        for update in self.updates:
            if (update.guard != ONE) != guarded:
                continue
            register = update.register
            vector = self.varying.any(register.q)
            if register.q[0] in self._handed_at:
                continue
            for node, bit in zip(register.q, register.init, strict=True):
                where, values = (self.vector_at, self.init) if vector else (self.bit_at, self.bit_init)
                where[node] = len(values)
                values.append(bit)

    def _cone(self, nodes: list[int]) -> set[int]:
        graph, found, todo = self.netlist.graph, set(), list(nodes)
        while todo:
            node = todo.pop()
            if node > ONE and node not in found:
                found.add(node)
                todo.extend(graph.operands(node))
        return found

    def _choose_kept(self) -> list[int]:
        graph = self.netlist.graph
        slow = {node for update in self.updates if update.guard != ONE for node in update.register.q if self.varying(node)}
        registers = set(slow)
        for node in range(2, len(graph)):
            operands = graph.operands(node)
            if operands and all(operand in slow for operand in operands):
                slow.add(node)
        always = [node for update in self.updates if update.guard == ONE for node in update.values]
        used = {node for node in self._cone(always) if node not in slow}
        border = {operand for node in used for operand in graph.operands(node)} | set(always)
        return sorted(node for node in border if node in slow and node not in registers)

    # The C text.

    def source(self) -> str:
        """Return the C functions."""
        arguments = ["V *__restrict s", "V *__restrict g", "uint8_t *__restrict b"]
        arguments += [f"V *__restrict o{number}" for number in range(len(self.handed))]
        arguments += [f"const V *__restrict p_{port}" for port in self.vector_ports]
        arguments += [f"const uint8_t *__restrict q_{port}" for port in self.bit_ports]
        arguments += [f"const uint8_t c_{port}" for port in self.vector_ports]
        arguments += ["const uint8_t active"] if self.handed else []
        refresh, renew = (
            f"static void refresh_{self.name}(V *__restrict s, V *__restrict g)",
            f"static void {self.name}({', '.join(arguments)})",
        )
        text = []
        for condition, ternary in (("#ifdef LOOKUP", True), ("#else", False)):
            text += [
                condition,
                reuse_operands(self._refresh(refresh, ternary=ternary)),
                reuse_operands(self._function(renew, ternary=ternary)),
            ]
        text.append("#endif")
        if self.forced:
            index = {node: place for place, node in enumerate(self.nets())}

            def force(node: int, expression: str) -> str:
                return f"STUCK({expression}, {index[node]})" if node in index else expression

            stuck = ["const V *__restrict sa0", "const V *__restrict sa1"]
            text.append(
                self._refresh(
                    f"static void forced_refresh_{self.name}(V *__restrict s, V *__restrict g, {', '.join(stuck)})", force=force
                )
            )
            text.append(self._function(f"static void forced_{self.name}({', '.join(arguments + stuck)})", force=force))
        return "\n".join(text)

    def _load(self, node: int, kept: bool) -> str | None:
        graph = self.netlist.graph
        if node in self.bit_at:
            return f"b[{self.bit_at[node]}]"
        if node in self.vector_at and (kept or graph.op[node] == "src"):
            return self.at(node)
        if graph.op[node] == "src":
            _, port, index = graph.args[node]
            if port in self.vector_ports:
                return f"p_{port}[{index}]" if self.varying(node) else f"MASK(q_{port}[{index}])"
            return f"q_{port}[{index}]"
        return None

    def _emitter(self, force, ternary: bool, *, kept: bool) -> Emitter:
        return Emitter(self.varying, lambda node: self._load(node, kept), force=force, ternary=ternary)

    def _refresh(self, head: str, *, force=None, ternary: bool = False) -> str:
        emitter = self._emitter(force, ternary, kept=False)
        emitter.prepare(self.kept)
        stores = [f"{self.at(node)} = {emitter.vector(node)};" for node in self.kept]
        return "\n".join([head + " {", "(void)s; (void)g;", *emitter.lines, *stores, "}"])

    def _function(self, head: str, *, force=None, ternary: bool = False) -> str:
        groups = self._groups()
        free = {id(update) for group in groups for update in group if update.guard == ONE}
        when: dict[int, str] = {}
        stores: list[str] = []
        opening: list[str] = []
        loaded: set[int] = set()

        def announce(groups: list[list[_Update]]) -> None:
            for group in groups:
                for update in group:
                    when[id(update)] = self._when(update, emitter, stores, alone=len(group) == 1)
                    stores.append(f"b[{self.flag_at[update.register.q[0]]}] = {when[id(update)]};")

        rare = self._rare(groups)
        if rare is not None:
            # Most of the time nothing changes but what does so in every cycle.
            first = [group for group in groups if {id(update) for update in group} <= free]
            groups = groups[len(first) :]
            emitter = self._emitter(force, ternary, kept=True)
            announce(first)
            loaded = {int(flag) for flag in re.findall(r"\bc(\d+)\b", " ".join(when.values()))}
            opening = [f"const uint8_t c{flag} = b[{flag}];" for flag in sorted(loaded)]
            opening += self._blocks([first], emitter, when)
            opening += [f"if (!({rare})) {{", *stores, "return;", "}"]
        emitter = self._emitter(force, ternary, kept=True)
        body = emitter.lines
        for update in self.updates:
            if not self.varying.any(update.register.q):
                for q, value in zip(update.register.q, update.values, strict=True):
                    stores.append(f"b[{self.bit_at[q]}] = {emitter.scalar(value)};")
        # The flags as the last edge has left them.
        body += [f"const uint8_t c{flag} = b[{flag}];" for flag in self.flags if flag not in loaded]
        announce(groups)
        parts = []
        for always, run in itertools.groupby(groups, key=lambda group: {id(update) for update in group} <= free):
            members = list(run)
            parts += [members] if always else [[group] for group in members]
        body += self._blocks(parts, emitter, when)
        guarded = [update for update in self.updates if id(update) in when and update.guard != ONE]
        changed = {when[id(update)] for update in guarded if self._feeds_kept(update.register)}
        if changed:
            arguments = "s, g, sa0, sa1" if force else "s, g"
            call = f"{'forced_' if force else ''}refresh_{self.name}({arguments});"
            body.append(f"if ({' | '.join(sorted(changed))}) {call}")
        return "\n".join([head + " {", *opening, *body, *stores, "}"])

    def _blocks(self, parts: list[list[list[_Update]]], emitter: Emitter, when: dict[int, str]) -> list[str]:
        """Return the statements that renew groups of registers, those of a part if any of its registers is renewed."""
        text = []
        for part in parts:
            inner = emitter.inner()
            members = [update for group in part for update in group]
            inner.prepare([value for update in members for value in update.values])
            for group in part:
                self._store(inner, group, inner.lines, when)
            condition = " | ".join(sorted({when[id(update)] for update in members}))
            text += [f"if ({condition}) {{", *inner.lines, "}"]
        return text

    def _rare(self, groups: list[list[_Update]]) -> str | None:
        """Return the C expression of whether anything may change but the registers without a guard; None if it would not do.

        While it is 0, the scalars and the flags of the other registers keep their value. The registers without a guard have to come
        first for it, and no other may read them.
        """
        graph = self.netlist.graph
        updates = list(itertools.chain.from_iterable(groups))
        always = [update.guard == ONE for update in updates]
        if not any(always) or all(always) or always != sorted(always, reverse=True):
            return None
        guarded = [update for update in updates if update.guard != ONE]
        goals = [value for update in self.updates if not self.varying.any(update.register.q) for value in update.values]
        goals += [update.guard for update in guarded]
        # A register of which it is not followed whether what it reads has changed has no flag for that.
        changes = set().union(*(self._changes(update) or () for update in guarded))
        own = {self.flag_at[update.register.q[0]] for update in guarded}
        ports = {change for change in changes if isinstance(change, str)}
        if any(graph.evaluate(goals)) or not changes - ports <= own:
            return None
        sources = [self._load(node, kept=True) for node in sorted(self._cone(goals)) if graph.op[node] == "src"]
        own |= set(self.bit_at.values())
        masks: dict[int, int] = {}
        for place in own:
            masks[place // 8 * 8] = masks.get(place // 8 * 8, 0) | 0xFF << place % 8 * 8
        words = [f"(word(b + {start}) & {mask:#x})" for start, mask in sorted(masks.items())]
        return " | ".join(
            [*words, *(source for source in sources if not source.startswith("b[")), *(f"c_{port}" for port in sorted(ports))]
        )

    def _when(self, update: _Update, emitter: Emitter, stores: list[str], *, alone: bool) -> str:
        """Return the C expression of whether a register is renewed; add what becomes of the flag that this needs."""
        if update.register.q[0] in self._handed_at:
            return "active"
        may_change = self._may_change(update) if alone else "1"
        if update.guard == ONE:
            return may_change
        guard = emitter.scalar(update.guard)
        if may_change == "1":
            return guard
        flag = self._waiting[id(update)]
        emitter.lines += [
            f"const uint8_t waiting{flag} = c{flag} | {may_change};",
            f"const uint8_t renewed{flag} = {guard} & waiting{flag};",
        ]
        stores.append(f"b[{flag}] = waiting{flag} & ({guard} ^ 1);")
        return f"renewed{flag}"

    def _changes(self, update: _Update) -> set[int | str] | None:
        """Return the flags and ports that tell whether the last edge may have changed something that a register reads.

        None if that is not followed.
        """
        sources = self._sources(update)
        if not sources or any(node not in self.flag_at and not self.varying(node) for node in sources):
            return None
        return {self.flag_at[node] if node in self.flag_at else self.netlist.graph.args[node][1] for node in sources}

    def _may_change(self, update: _Update) -> str:
        """Return the C expression of that."""
        changes = self._changes(update)
        return "1" if changes is None else " | ".join(sorted(f"c{'_' * isinstance(change, str)}{change}" for change in changes))

    def _store(self, emitter: Emitter, group: list[_Update], lines: list[str], when: dict[int, str]) -> None:
        """Emit the new values of registers that read each other: all are computed before the first is written."""
        stores = []
        several = len({update.guard for update in group}) > 1
        for update in group:
            stuck = emitter.force or (lambda node, expression: expression)
            own = []
            for q, value in zip(update.register.q, update.values, strict=True):
                expression = emitter.vector(value)
                if len(group) == 1 and not self._reads(update, update):
                    lines.append(f"{self.at(q)} = {stuck(q, expression)};")
                else:
                    own.append(f"{self.at(q)} = {stuck(q, expression)};")
            if several and update.guard != ONE:
                own = [f"if ({when[id(update)]}) {{", *own, "}"]
            stores += own
        lines += stores

    def _reads(self, update: _Update, other: _Update) -> bool:
        return not self._sources(update).isdisjoint(other.register.q)

    def _sources(self, update: _Update) -> set[int]:
        key = id(update)
        cache = self.__dict__.setdefault("_source_cache", {})
        if key not in cache:
            cone = self._cone(update.values)
            # What is kept stands for the registers below it, which a refresh reads after all of them have changed.
            cache[key] = {node for node in cone if self.netlist.graph.op[node] == "src"}
        return cache[key]

    def _feeds_kept(self, register: Register) -> bool:
        return not self._cone(self.kept).isdisjoint(register.q)

    def _groups(self) -> list[list[_Update]]:
        """Return the registers of vectors, readers before what they read; those that read each other in a circle together."""
        updates = [update for update in self.updates if self.varying.any(update.register.q)]
        numbered = list(enumerate(updates))
        reads = [{j for j, other in numbered if j != i and self._reads(update, other)} for i, update in numbered]
        return [[updates[index] for index in circle] for circle in readers_first(reads)]
