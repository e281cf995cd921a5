"""The order in which state is renewed in place at a clock edge: whoever reads goes before whoever changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["Unit", "ordered"]


@dataclass(eq=False)
class Unit:
    """Something that changes state at the edge.

    ``reads`` are the owners whose state it uses, the one it uses most last; ``owner`` is the one that it changes, ``after`` the
    units that must come before it. ``detach`` makes it read copies from before the edge instead.
    """

    what: str
    owner: int
    reads: list[int]
    detach: Callable[[], None]
    index: int = 0
    after: list[Unit] = field(default_factory=list)


def ordered(units: list[Unit]) -> list[Unit]:
    """Return the units in an order that is right; where they read each other in a circle, one of them is detached.

    Next comes, if it can, the last unit's source that is read most, so that it is still in the cache. What fetches from memories
    (``text``) comes when nothing else can: by then the words have been brought nearer.
    """
    writers = defaultdict(list)
    for unit in units:
        writers[unit.owner].append(unit)
    blockers: dict[int, int] = {id(unit): len(unit.after) for unit in units}
    unblocks: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        for earlier in unit.after:
            unblocks[id(earlier)].append(unit)
        for owner in unit.reads:
            for writer in writers[owner]:
                if writer is not unit:
                    blockers[id(writer)] += 1
                    unblocks[id(unit)].append(writer)
    ready: list[Unit] = []
    late: list[Unit] = []

    def add(unblocked: Iterable[Unit]) -> None:
        for unit in unblocked:
            (late if unit.what == "text" else ready).append(unit)

    add(unit for unit in reversed(units) if not blockers[id(unit)])
    done: list[Unit] = []
    placed: set[int] = set()

    def place(unit: Unit) -> None:
        placed.add(id(unit))
        done.append(unit)
        release(unit)

    def release(unit: Unit) -> None:
        released = []
        for following in unblocks.pop(id(unit), ()):
            blockers[id(following)] -= 1
            if not blockers[id(following)] and id(following) not in placed:
                released.append(following)
        # Last, and so next, who needs most of it.
        add(sorted(released, key=lambda following: following.after[-1:] == [unit]))

    while len(done) < len(units):
        if not ready and not late:
            stuck = next(unit for unit in units if id(unit) not in placed and unit.reads and not unit.after)
            stuck.detach()
            stuck.reads = []
            # From now on nobody waits for it but those that it has to precede by order.
            for following in unblocks.pop(id(stuck), ()):
                blockers[id(following)] -= 1
                if stuck in following.after:
                    blockers[id(following)] += 1
                    unblocks[id(stuck)].append(following)
                elif not blockers[id(following)] and id(following) not in placed:
                    add([following])
            continue
        unit = (ready or late).pop()
        if id(unit) not in placed:
            place(unit)
    return done
