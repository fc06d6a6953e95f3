"""What no run refers to: found, and removed under a lock that keeps every run out of the store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import RunLockedError, StoreError
from ..stages.merge import written_folders
from ..store import freed_chips, locks
from ..store.store import TEMP_PREFIX, is_leftover
from .contents import Contents, Files, Group, survey
from .freeable import Going, exceeding, finished, note, remove, remove_empty, write_down
from .references import References
from .work_folder import RunFolder, Shared, Work, open_work


@dataclass
class Waste:
    """What can go.

    Attributes:
        objects: objects that no run refers to, by group.
        declarations: ``bands.json`` of folders that have no objects then.
        damaged: objects that were set aside.
        leftovers: temporary files of dead processes, and old ones of other machines, in the stores.
        in_runs: such files in the folders of runs and beside final files.
        generations: generation files of runs that are gone.
        registrations: those of work folders that are gone, in a store.
        records: of freed chips (``kept.py``) whose export is gone.
        gone: these work folders. groups: every group of every store, to remove folders that are empty then.
        spare: objects of finished exports, above a limit.
    """

    objects: list[tuple[Group, dict[str, int]]] = field(default_factory=list)
    declarations: Files = field(default_factory=dict)
    damaged: Files = field(default_factory=dict)
    leftovers: Files = field(default_factory=dict)
    in_runs: Files = field(default_factory=dict)
    generations: Files = field(default_factory=dict)
    registrations: Files = field(default_factory=dict)
    records: Files = field(default_factory=dict)
    gone: list[Path] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    spare: Going = field(default_factory=list)

    @property
    def small(self) -> Files:
        """Everything but the objects."""
        found = self.declarations | self.damaged | self.leftovers | self.in_runs | self.generations
        return found | self.registrations | self.records

    @property
    def files(self) -> int:
        return len(self.small) + sum(group.files(names) for group, names in self.objects + self.spare)

    @property
    def bytes(self) -> int:
        return sum(self.small.values()) + sum(sum(names.values()) for _, names in self.objects + self.spare)


def prune(
    given: str | Path, *, yes: bool = False, ignore_broken: bool = False, limit: float | None = None
) -> tuple[Work, Waste]:
    """Find what no run refers to and, with ``yes``, remove it.

    Args:
        limit: bytes that each store may have; above it, objects of finished exports go, too.

    Raises:
        StoreError: no work folder, or a run whose request cannot be read. RunLockedError: a run is live.
    """
    work = open_work(given)
    with contextlib.ExitStack() as held:
        if yes:
            _refuse_live(work)
            for shared in work.stores:
                held.enter_context(_exclude(work, shared))
            work = open_work(work.folder)  # what was read before the lock may have changed
            _refuse_live(work)
        if not ignore_broken:
            refuse_broken(work)
        found = {shared.store.root: survey(shared.store) for shared in work.stores}
        waste = find(work, found)
        if limit is not None:
            for shared in work.stores:
                going = exceeding(shared, _without(found[shared.store.root], waste), limit)
                waste.spare += going
                if yes:
                    write_down(going, shared, (entry for entry in shared.runs if finished(entry) is not None))
                    note(going, shared.runs)
        if yes:
            _remove(waste)
    return work, waste


def refuse_broken(work: Work) -> None:
    """Refuse where a run cannot be read, so that nobody knows what it refers to."""
    broken = _broken(work)
    if broken:
        raise StoreError(broken)


def refusal(work: Work) -> str | None:
    """Why ``prune --yes`` would refuse now, or None."""
    try:
        _refuse_live(work)
    except RunLockedError as error:
        return str(error)
    return _broken(work)


def find(work: Work, found: Mapping[Path, Contents]) -> Waste:
    """What can go.

    Args:
        found: what lies in the stores of the work folder, by their path.
    """
    waste = Waste()
    for shared in work.stores:
        contents, references = found[shared.store.root], References(shared.runs)
        waste.groups += contents.groups
        waste.damaged |= contents.damaged
        waste.leftovers |= contents.leftovers
        waste.registrations |= _sizes(shared.gone)
        waste.records |= _sizes(
            path for path in freed_chips.of_store(shared.store) if freed_chips.gone(path, shared.store)
        )
        waste.gone += shared.gone.values()
        for group in contents.groups:
            names = references.unreferenced(group)
            if names:
                waste.objects.append((group, names))
            if group.declaration is not None and len(names) == len(group.objects) and not group.others:
                waste.declarations[group.folder / "bands.json"] = group.declaration
    for entry in work.runs:
        waste.damaged |= _sizes((entry.folder / "items").glob("*.damaged"))
    waste.generations = _sizes(work.orphaned_generations)
    folders = dict.fromkeys(f for r in work.runs if r.run for f in written_folders(r.run))
    halves = _there(path for folder in folders for path in folder.glob(f"{TEMP_PREFIX}*"))
    waste.in_runs = {path: stat.st_size for path, stat in halves if is_leftover(path.name, stat.st_mtime)}
    return waste


def _without(contents: Contents, waste: Waste) -> Contents:
    """A store as it is without what goes anyway."""
    going = {id(group): names for group, names in waste.objects}
    groups = [
        replace(g, objects={n: size for n, size in g.objects.items() if n not in going.get(id(g), ())})
        for g in contents.groups
    ]
    return replace(contents, groups=groups, damaged={}, leftovers={})


def _remove(waste: Waste) -> None:
    remove(waste.spare)
    for group, names in waste.objects:
        group.remove(names)
    for path in waste.small:
        path.unlink(missing_ok=True)
    for group in waste.groups:
        remove_empty(group)


def _sizes(paths: Iterable[Path]) -> Files:
    return {path: stat.st_size for path, stat in _there(paths)}


def _there(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Without those that vanish meanwhile: looking is allowed while runs are at work."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _exclude(work: Work, shared: Shared) -> contextlib.AbstractContextManager:
    lock = locks.exclude(shared.store.root)
    if lock is None:
        _refuse_live(open_work(work.folder))
        raise RunLockedError(
            f"prune: the store {shared.store.root} is in use by a run that has just started or that is not known here; "
            "wait for it, or stop it, and prune again"
        )
    return lock


def _refuse_live(work: Work) -> None:
    """Refuse while a run works with one of the stores; its lock alone would do, and names nobody."""
    for entry in _all_runs(work):
        if entry.running is not None:
            who = ", ".join(f"{k} {v}" for k, v in entry.running.items()) or "it has just started"
            raise RunLockedError(
                f"prune: a run is working on {entry.target} ({who}); wait for it, or stop it, and prune again"
            )


def _broken(work: Work) -> str | None:
    """The sentence about what keeps anybody from knowing what is referred to, or None."""
    for entry in _all_runs(work):
        if entry.error:
            return (
                f"prune: the request of the run {entry.folder} cannot be read ({entry.error}), so what it made would be "
                "removed; allowed: start that request again, delete that folder, or give --ignore-broken"
            )
    for shared in work.stores:
        if shared.unreadable:
            return (
                f"prune: {shared.unreadable[0]} names a work folder that uses this store and cannot be read, so what its "
                "runs made would be removed; allowed: start one of its requests again, delete that file, or give --ignore-broken"
            )
    return None


def _all_runs(work: Work) -> list[RunFolder]:
    """The runs of this work folder, and those of others that use one of its stores."""
    runs = [*work.runs, *(r for shared in work.stores for r in (*shared.runs, *shared.broken))]
    return list({r.folder: r for r in runs}.values())
