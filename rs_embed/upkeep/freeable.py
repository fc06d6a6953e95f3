"""Selects and removes objects that finished exports do not need: after success those that
``keep_work`` does not keep, and above a limit the oldest. Objects of unfinished runs, and final
files, always stay."""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import StoreError
from ..runs.run import Run
from ..runs.run_files import FREED, TIDIED
from ..store import receipts
from ..store.atomic_files import replace_file
from .contents import StoreContents, StoredGroup
from .exported_chips import record_chips, remove_void_records
from .references import References
from .work_folder import LoadedRun, SharedStore

#: Objects to remove, by group: bytes by name.
Selection = list[tuple[StoredGroup, dict[str, int]]]
_RunsByKind = dict[str, list[LoadedRun]]


def select_unkept(shared: SharedStore, contents: StoreContents) -> tuple[Selection, list[LoadedRun]]:
    """Objects of finished runs that their ``keep_work`` does not keep, without those that another
    run needs: one that is unfinished or keeps them. With ``keep_work: embeddings`` only chips that
    can be read back from an export.

    Returns:
        The objects to remove; the finished runs of which no other run needs an object.
    """
    freeing, keeping = _split_by_keep_work(shared.runs)
    freed_by, needed_by = ({kind: References(runs) for kind, runs in found.items()} for found in (freeing, keeping))
    selected: Selection = []
    waiting: set[Path] = set()
    for group in contents.groups:
        unrelated = freed_by[group.kind].unreferenced(group)
        not_needed = needed_by[group.kind].unreferenced(group)
        names = {n: size for n, size in not_needed.items() if n not in unrelated}
        if names:
            selected.append((group, names))
        stay = group.objects.keys() - not_needed.keys()
        waiting |= {entry.folder for entry, used in freed_by[group.kind].names_by_run(group) if stay & used}
    done = {e.folder: e for runs in freeing.values() for e in runs if e.folder not in waiting}
    recorded = record_before_removal(selected, shared, freeing["chips"])
    protected = References(e for e in freeing["chips"] if e.run.request.config.keep_work == "embeddings")
    selected = [(g, _removable(g, names, recorded.get(id(g), set()), protected)) for g, names in selected]
    return [(group, names) for group, names in selected if names], list(done.values())


def _split_by_keep_work(runs: Iterable[LoadedRun]) -> tuple[_RunsByKind, _RunsByKind]:
    """The runs that free objects of a kind, and the runs that keep them."""
    freeing: _RunsByKind = {"chips": [], "embeddings": []}
    keeping: _RunsByKind = {"chips": [], "embeddings": []}
    for entry in runs:
        config = entry.run.request.config
        kinds = {"chips", "embeddings"} if config.keep_work == "none" else set()
        if config.keep_work == "embeddings" and config.save_inputs:  # other pixels exist only in the store
            kinds.add("chips")
        if kinds and finish_time(entry) is None:
            kinds = set()
        for kind in freeing:
            (freeing if kind in kinds else keeping)[kind].append(entry)
    return freeing, keeping


def _removable(group: StoredGroup, names: dict[str, int], recorded: set[str], protected: References) -> dict[str, int]:
    """The objects of a group without chips that cannot be read back and that a run with
    ``keep_work: embeddings`` refers to, and without those that state that no imagery exists: this
    is stored only there.

    Args:
        recorded: chips that can be read back. protected: the runs with ``keep_work: embeddings``.
    """
    if group.kind != "chips":
        return names
    wanted = group.objects.keys() - protected.unreferenced(group).keys()
    unrecorded = {n for n in names.keys() - recorded - wanted if not _is_no_data(group, n)}
    return {n: size for n, size in names.items() if n in recorded or n in unrecorded}


def _is_no_data(group: StoredGroup, name: str) -> bool:
    found = group.store_group.read_metadata(name)
    return found is not None and found.meta["status"] == "no_data"


def record_before_removal(selected: Selection, shared: SharedStore, runs: Iterable[LoadedRun]) -> dict[int, set[str]]:
    """Record how selected chips can be read back from the exports of finished runs.

    Returns:
        The names of the recorded chips, by the ``id`` of their group.
    """
    found: dict[int, set[str]] = {}
    for entry in runs:
        known = is_tidied(entry.run)
        for group, names in selected:
            if group.kind == "chips":
                chips = record_chips(entry, shared.store, group, names, known_only=known)
                found.setdefault(id(group), set()).update(chips)
        remove_void_records(entry, shared.store)
    return found


def select_over_limit(shared: SharedStore, contents: StoreContents, limit: float) -> Selection:
    """Objects to remove so that a store has at most ``limit`` bytes: first those that no run
    refers to, then chips, then embeddings, each in the order in which the exports were
    finished."""
    excess = contents.bytes - limit
    if excess <= 0:
        return []
    ends = {r.folder: finish_time(r) for r in shared.runs}
    queue = [entry for i, group in enumerate(contents.groups) for entry in _rank_objects(i, group, shared, ends)]
    heapq.heapify(queue)
    selected: dict[int, dict[str, int]] = {}
    while queue and excess > 0:
        *_, i, name, size = heapq.heappop(queue)
        selected.setdefault(i, {})[name] = size
        excess -= size
    return [(contents.groups[i], names) for i, names in selected.items()]


def _rank_objects(
    i: int, group: StoredGroup, shared: SharedStore, ends: Mapping[Path, str | None]
) -> Iterator[tuple[bool, bool, str, str, int, str, int]]:
    """(is referred to, is an embedding, end of the last export that used it, pack, group, name,
    bytes) of the removable objects of a group. The pack comes before the name, so that whole packs
    are removed where possible."""
    references = References(shared.runs)
    last = dict.fromkeys(group.objects, "")
    for run, names in references.names_by_run(group):
        end = ends[run.folder]
        for name in names & last.keys():
            if end is None:
                del last[name]  # an unfinished run needs it
            else:
                last[name] = max(last[name], end)
    for name, end in last.items():
        yield (bool(end), group.kind == "embeddings", end, group.pack_of(name), i, name, group.objects[name])


def finish_time(entry: LoadedRun) -> str | None:
    """When a run was finished; None if it is not, or if its next start tries something again."""
    run = entry.run
    plan, accept = run.plan, run.request.config.continue_on_error
    state, receipt = receipts.read_state(run.dir / plan.merge_receipt, plan.merge_key)
    if state != "good" or receipt is None:
        return None
    others = (receipts.read_state(run.dir / p, key, accept_failures=accept)[0] for p, key in plan.receipts().items())
    return receipt["finished"] if all(other == "good" for other in others) else None


def is_tidied(run: Run) -> bool:
    """Space was freed after the last merge of a run, with the ``keep_work`` of its request."""
    try:
        return json.loads((run.dir / TIDIED).read_text()) == _tidied_state(run)
    except (FileNotFoundError, ValueError):
        return False


def mark_tidied(run: Run) -> None:
    """Record that space was freed, and that no other run needs an object of this one."""
    replace_file(run.dir / TIDIED, json.dumps(_tidied_state(run)).encode())


def _tidied_state(run: Run) -> list[str | None]:
    """Digest of the last merge, and ``keep_work``."""
    try:
        merge = receipts.read(run.dir / run.plan.merge_receipt, run.plan.merge_key)["sha256"]
    except (FileNotFoundError, StoreError):
        merge = None
    return [merge, run.request.config.keep_work]


def mark_freed(selected: Selection, runs: Iterable[LoadedRun]) -> None:
    """Record in the folders of the affected runs which kinds of objects are freed, before the
    objects are removed."""
    for entry in runs:
        references = References([entry])
        kinds = {g.kind for g, names in selected if names.keys() - references.unreferenced(g).keys()}
        if kinds:
            replace_file(entry.folder / FREED, json.dumps(sorted(kinds | freed_kinds(entry.folder))).encode())


def freed_kinds(folder: Path) -> set[str]:
    """Kinds of objects (``chips``, ``embeddings``) that were freed after the run in a folder was
    finished."""
    try:
        return set(json.loads((folder / FREED).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return set()


def remove_objects(selected: Selection) -> int:
    """Remove objects, and folders that become empty; returns the bytes of the objects."""
    for group, names in selected:
        group.store_group.remove(names)
        if len(names) == len(group.objects) and not group.others:
            (group.folder / "bands.json").unlink(missing_ok=True)
        remove_empty_folders(group)
    return sum(sum(names.values()) for _, names in selected)


def remove_empty_folders(group: StoredGroup) -> None:
    """Remove the empty folders of a group."""
    folders = [*group.folder.glob("*/"), group.folder, *([group.folder.parent] if group.kind == "chips" else [])]
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()  # fails unless it is empty
