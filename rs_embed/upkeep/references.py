"""What runs refer to: the objects that their plans name, not those that their receipts list, so that what an unfinished
run has made, or is about to read, counts too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .contents import Group
from .work_folder import RunFolder


@dataclass(frozen=True)
class _Use:
    run: RunFolder
    bands: frozenset[str]
    names: frozenset[str]


class References:
    """What some runs refer to in one store."""

    def __init__(self, runs: Iterable[RunFolder]) -> None:
        self._uses: dict[tuple[str, str], list[_Use]] = defaultdict(list)
        for entry in runs:
            plan = entry.run.plan
            names = {s.id: frozenset(plan.objects(s.id)) for s in plan.sources}
            for source in plan.sources:
                self._uses["chips", source.id].append(_Use(entry, frozenset(source.bands), names[source.id]))
            for unit in plan.embedded:
                self._uses["embeddings", unit.id].append(_Use(entry, frozenset(), names[unit.source]))

    def _of(self, group: Group) -> list[_Use]:
        """Uses of a group. A chip is referred to by a source that wants any of its bands; where the declaration of a
        folder is damaged, its chips may have any."""
        uses = self._uses.get((group.kind, group.id), [])
        return [u for u in uses if group.bands is None or u.bands & set(group.bands)]

    def uses(self, group: Group) -> list[tuple[RunFolder, frozenset[str]]]:
        """The runs that refer to a group, with the names they refer to."""
        return [(u.run, u.names) for u in self._of(group)]

    def runs(self, group: Group) -> list[RunFolder]:
        """The runs that refer to a group."""
        return list({u.run.folder: u.run for u in self._of(group)}.values())

    def unreferenced(self, group: Group) -> dict[str, int]:
        """Objects of a group that no run refers to, with their bytes."""
        named: set[str] = set().union(*(u.names for u in self._of(group)))
        return {name: size for name, size in group.objects.items() if name not in named}
