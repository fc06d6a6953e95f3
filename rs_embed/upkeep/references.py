"""The objects that runs refer to: those that their plans name, because receipts lack what an
unfinished run has made or reads next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .contents import StoredGroup
from .work_folder import LoadedRun


@dataclass(frozen=True)
class _Use:
    """The objects of one source or unit that a run names; ``bands`` is empty for embeddings."""

    run: LoadedRun
    bands: frozenset[str]
    names: frozenset[str]


class References:
    """The objects of one store that some runs refer to."""

    def __init__(self, runs: Iterable[LoadedRun]) -> None:
        self._uses: dict[tuple[str, str], list[_Use]] = defaultdict(list)
        for entry in runs:
            plan = entry.run.plan
            every = {s.id: frozenset(plan.object_names(s.id)) for s in plan.sources}
            for source in plan.sources:
                rois, names = plan.rois_of(source.id), every[source.id]
                if len(rois) < len(plan.roi_ids):
                    names = frozenset(plan.object_names(source.id)[i] for i in rois)
                self._uses["chips", source.id].append(_Use(entry, frozenset(source.bands), names))
            for unit in plan.embedded_units:
                self._uses["embeddings", unit.id].append(_Use(entry, frozenset(), every[unit.source]))

    def _find_uses(self, group: StoredGroup) -> list[_Use]:
        """Uses of a group. A source refers to a chip if it reads any of its bands. Where the
        declaration of a folder is damaged, its chips may have any bands."""
        uses = self._uses.get((group.kind, group.id), [])
        return [u for u in uses if group.bands is None or u.bands & set(group.bands)]

    def names_by_run(self, group: StoredGroup) -> list[tuple[LoadedRun, frozenset[str]]]:
        """The runs that refer to a group, each with the object names of its plan."""
        return [(u.run, u.names) for u in self._find_uses(group)]

    def runs(self, group: StoredGroup) -> list[LoadedRun]:
        """The runs that refer to a group."""
        return list({u.run.folder: u.run for u in self._find_uses(group)}.values())

    def unreferenced(self, group: StoredGroup) -> dict[str, int]:
        """Objects of a group that no run refers to, with their bytes."""
        named: set[str] = set().union(*(u.names for u in self._find_uses(group)))
        return {name: size for name, size in group.objects.items() if name not in named}
