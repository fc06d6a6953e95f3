"""``rs-embed prune``: finds what no run refers to, and removes it under a lock that keeps every
run out of the store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import RunLockedError, StoreError
from ..stages.merge import written_folders
from ..store import freed_chips, locks
from ..store.atomic_files import TEMP_PREFIX, is_leftover
from . import freeable
from .contents import FileSizes, StoreContents, StoredGroup, scan_store
from .references import References
from .work_folder import RunFolder, SharedStore, WorkFolder, open_work_folder


@dataclass
class Prunable:
    """What ``prune`` can remove.

    Attributes:
        objects: objects that no run refers to, by group.
        declarations: ``bands.json`` of folders that have no objects afterwards.
        damaged: objects that were set aside.
        leftovers: temporary files of dead processes, and old ones of other machines, in the
            stores.
        in_runs: such files in run folders and beside final files.
        generations: generation files of runs whose folder does not exist.
        registrations: registration files of work folders that do not exist, in a store.
        records: records of freed chips (``store/freed_chips.py``) whose export does not exist.
        missing_work_folders: the work folders of these registrations.
        groups: every group of every store, to remove folders that become empty.
        over_limit: objects of finished exports, above a limit.
    """

    objects: freeable.Selection = field(default_factory=list)
    declarations: FileSizes = field(default_factory=dict)
    damaged: FileSizes = field(default_factory=dict)
    leftovers: FileSizes = field(default_factory=dict)
    in_runs: FileSizes = field(default_factory=dict)
    generations: FileSizes = field(default_factory=dict)
    registrations: FileSizes = field(default_factory=dict)
    records: FileSizes = field(default_factory=dict)
    missing_work_folders: list[Path] = field(default_factory=list)
    groups: list[StoredGroup] = field(default_factory=list)
    over_limit: freeable.Selection = field(default_factory=list)

    @property
    def small_files(self) -> FileSizes:
        """Everything except the objects."""
        found = self.declarations | self.damaged | self.leftovers | self.in_runs | self.generations
        return found | self.registrations | self.records

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.small_files) + sum(g.count_files(names) for g, names in self.objects + self.over_limit)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.small_files.values()) + sum(sum(n.values()) for _, n in self.objects + self.over_limit)


def prune(
    given: str | Path, *, yes: bool = False, ignore_broken: bool = False, limit: float | None = None
) -> tuple[WorkFolder, Prunable]:
    """Find what no run refers to and, with ``yes``, remove it.

    Args:
        given: path that refers to a work folder. ignore_broken: also where the request of a run
            cannot be read.
        limit: bytes that each store may have; above it, objects of finished exports are removed,
            too.

    Raises:
        StoreError: no work folder, or a run whose request cannot be read. RunLockedError: a run is
            live.
    """
    work = open_work_folder(given)
    with contextlib.ExitStack() as held:
        if yes:
            _refuse_live_runs(work)
            for shared in work.stores:
                held.enter_context(_lock_store(work, shared))
            work = open_work_folder(work.folder)  # it may have changed before the lock was taken
            _refuse_live_runs(work)
        if not ignore_broken:
            refuse_unreadable_runs(work)
        contents = {shared.store.root: scan_store(shared.store) for shared in work.stores}
        prunable = find_prunable(work, contents)
        if limit is not None:
            for shared in work.stores:
                selected = freeable.select_over_limit(shared, _without(contents[shared.store.root], prunable), limit)
                prunable.over_limit += selected
                if yes:
                    finished = (entry for entry in shared.runs if freeable.finish_time(entry) is not None)
                    freeable.record_before_removal(selected, shared, finished)
                    freeable.mark_freed(selected, shared.runs)
        if yes:
            _remove(prunable)
    return work, prunable


def refuse_unreadable_runs(work: WorkFolder) -> None:
    """Refuse where a run cannot be read, because its references are unknown.

    Raises:
        StoreError: such a run exists.
    """
    reason = _find_unreadable(work)
    if reason:
        raise StoreError(reason)


def find_refusal(work: WorkFolder) -> str | None:
    """Why ``prune --yes`` would refuse now, or None."""
    try:
        _refuse_live_runs(work)
    except RunLockedError as error:
        return str(error)
    return _find_unreadable(work)


def find_prunable(work: WorkFolder, contents: Mapping[Path, StoreContents]) -> Prunable:
    """List what ``prune`` can remove, without a limit.

    Args:
        contents: of the stores of the work folder, by their path.
    """
    found = Prunable()
    for shared in work.stores:
        _add_store(shared, contents[shared.store.root], found)
    for entry in work.run_folders:
        found.damaged |= _file_sizes((entry.folder / "items").glob("*.damaged"))
    found.generations = _file_sizes(work.orphaned_generations)
    folders = dict.fromkeys(folder for entry in work.runs for folder in written_folders(entry.run))
    temporary = _stat_existing(path for folder in folders for path in folder.glob(f"{TEMP_PREFIX}*"))
    found.in_runs = {path: stat.st_size for path, stat in temporary if is_leftover(path.name, stat.st_mtime)}
    return found


def _add_store(shared: SharedStore, contents: StoreContents, found: Prunable) -> None:
    """Add what can be removed from a store."""
    references, store = References(shared.runs), shared.store
    found.groups += contents.groups
    found.damaged |= contents.damaged
    found.leftovers |= contents.leftovers
    found.registrations |= _file_sizes(shared.missing)
    void = (path for path in freed_chips.list_all_records(store) if freed_chips.is_export_missing(path, store))
    found.records |= _file_sizes(void)
    found.missing_work_folders += shared.missing.values()
    for group in contents.groups:
        names = references.unreferenced(group)
        if names:
            found.objects.append((group, names))
        if group.declaration is not None and len(names) == len(group.objects) and not group.others:
            found.declarations[group.folder / "bands.json"] = group.declaration


def _without(contents: StoreContents, removed: Prunable) -> StoreContents:
    """The contents of a store after something was removed."""
    names_of = {id(group): names for group, names in removed.objects}
    groups = [
        replace(g, objects={n: size for n, size in g.objects.items() if n not in names_of.get(id(g), ())})
        for g in contents.groups
    ]
    return replace(contents, groups=groups, damaged={}, leftovers={})


def _remove(found: Prunable) -> None:
    freeable.remove_objects(found.over_limit)
    for group, names in found.objects:
        group.store_group.remove(names)
    for path in found.small_files:
        path.unlink(missing_ok=True)
    for group in found.groups:
        freeable.remove_empty_folders(group)


def _file_sizes(paths: Iterable[Path]) -> FileSizes:
    return {path: stat.st_size for path, stat in _stat_existing(paths)}


def _stat_existing(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Paths with size and times, without those that runs delete meanwhile."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _lock_store(work: WorkFolder, shared: SharedStore) -> contextlib.AbstractContextManager:
    lock = locks.acquire_exclusive_store_lock(shared.store.root)
    if lock is None:
        _refuse_live_runs(open_work_folder(work.folder))
        raise RunLockedError(
            f"prune: the store {shared.store.root} is in use by a run that has just started or that is not known here; "
            "wait for it, or stop it, and prune again"
        )
    return lock


def _refuse_live_runs(work: WorkFolder) -> None:
    """Refuse while a run uses one of the stores. The lock of the store would be enough, but does
    not identify the run.

    Raises:
        RunLockedError: a run is live.
    """
    for entry in _all_runs(work):
        if entry.running is not None:
            process = ", ".join(f"{k} {v}" for k, v in entry.running.items()) or "it has just started"
            raise RunLockedError(
                f"prune: a run is working on {entry.target} ({process}); wait for it, or stop it, and prune again"
            )


def _find_unreadable(work: WorkFolder) -> str | None:
    """A message about the first request or registration that cannot be read, or None."""
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


def _all_runs(work: WorkFolder) -> list[RunFolder]:
    """The runs of this work folder, and those of other work folders that use one of its stores."""
    runs = [*work.run_folders, *(r for shared in work.stores for r in (*shared.runs, *shared.broken))]
    return list({r.folder: r for r in runs}.values())
