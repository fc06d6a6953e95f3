"""Objects that finished exports can do without: after success what ``keep_work`` does not keep, and above a limit the
oldest. Nothing that an unfinished run refers to goes, and never a final file."""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .. import receipts
from ..run import FREED
from ..store import replace_file
from .contents import Contents, Group
from .references import References
from .work import RunFolder, Shared

#: Objects that can go, by group: name to bytes.
Going = list[tuple[Group, dict[str, int]]]


def dropped(mine: RunFolder, shared: Shared, contents: Contents, keep: str) -> Going:
    """What a finished run leaves behind that ``keep_work`` does not keep and no other run refers to.

    Args:
        keep: ``embeddings`` (chips go, if their pixels were saved in the export) or ``none`` (all goes).
    """
    if keep == "embeddings" and not mine.run.request.config.save_inputs:
        return []
    own, others = References([mine]), References(r for r in shared.runs if r is not mine)
    going = []
    for group in contents.groups:
        if group.kind == "chips" or keep == "none":
            unneeded, not_mine = others.unreferenced(group), own.unreferenced(group)
            names = {n: size for n, size in unneeded.items() if n not in not_mine}
            if names:
                going.append((group, names))
    return going


def exceeding(shared: Shared, contents: Contents, limit: float) -> Going:
    """What has to go so that a store has at most ``limit`` bytes: what no run refers to, then chips, then embeddings,
    those of the exports that were finished first before others."""
    excess = contents.bytes - limit
    if excess <= 0:
        return []
    finished = {r.folder: _finished(r) for r in shared.runs}
    queue = [entry for i, group in enumerate(contents.groups) for entry in _ages(i, group, shared, finished)]
    heapq.heapify(queue)
    going: dict[int, dict[str, int]] = {}
    while queue and excess > 0:
        *_, i, name, size = heapq.heappop(queue)
        going.setdefault(i, {})[name] = size
        excess -= size
    return [(contents.groups[i], names) for i, names in going.items()]


def _ages(i: int, group: Group, shared: Shared, finished: Mapping[Path, str | None]) -> Iterator[tuple]:
    """(rank, end of the last export that used it, kind, group, name, bytes) of the objects of a group that can go."""
    references = References(shared.runs)
    last = dict.fromkeys(group.objects, "")
    for run, names in references.uses(group):
        end = finished[run.folder]
        for name in names & last.keys():
            if end is None:
                del last[name]  # an unfinished run needs it
            else:
                last[name] = max(last[name], end)
    for name, end in last.items():
        yield (bool(end), group.kind == "embeddings", end, i, name, group.objects[name])


def _finished(entry: RunFolder) -> str | None:
    """When a run was finished, None if it is not."""
    plan = entry.run.plan
    state, receipt = receipts.examine(entry.run.dir / plan.merge_receipt, plan.merge_key)
    return receipt["finished"] if state == "good" else None


def note(going: Going, runs: Iterable[RunFolder]) -> None:
    """Note in the folders of the runs concerned what they will not find any more, before it goes."""
    for entry in runs:
        references = References([entry])
        kinds = {g.kind for g, names in going if names.keys() - references.unreferenced(g).keys()}
        if kinds:
            known = freed(entry.folder)
            replace_file(entry.folder / FREED, json.dumps(sorted(kinds | known)).encode())


def freed(folder: Path) -> set[str]:
    """Kinds of objects (``chips``, ``embeddings``) that were freed after the run in a folder was finished."""
    try:
        return set(json.loads((folder / FREED).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return set()


def remove(going: Going) -> int:
    """Remove objects, and folders that are empty then; returns their bytes."""
    for group, names in going:
        for name in names:
            group.path(name).unlink(missing_ok=True)
        if len(names) == len(group.objects) and not group.others:
            (group.folder / "bands.json").unlink(missing_ok=True)
        remove_empty(group)
    return sum(sum(names.values()) for _, names in going)


def remove_empty(group: Group) -> None:
    """Remove those folders of a group that are empty."""
    folders = [*group.folder.glob("*/"), group.folder, *([group.folder.parent] if group.kind == "chips" else [])]
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty
