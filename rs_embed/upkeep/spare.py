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


def dropped(shared: Shared, contents: Contents) -> Going:
    """What finished runs leave behind that their own ``keep_work`` does not keep, and that no run refers to which is
    unfinished or keeps it."""
    leaving: dict[str, list[RunFolder]] = {"chips": [], "embeddings": []}
    keeping: dict[str, list[RunFolder]] = {"chips": [], "embeddings": []}
    for entry in shared.runs:
        config = entry.run.request.config
        frees = {"chips", "embeddings"} if config.keep_work == "none" else set()
        if config.keep_work == "embeddings" and config.save_inputs:  # other pixels are nowhere else
            frees.add("chips")
        if frees and finished(entry) is None:
            frees = set()
        for kind in leaving:
            (leaving if kind in frees else keeping)[kind].append(entry)
    mine, others = ({kind: References(runs) for kind, runs in found.items()} for found in (leaving, keeping))
    going = []
    for group in contents.groups:
        foreign = mine[group.kind].unreferenced(group)
        names = {n: size for n, size in others[group.kind].unreferenced(group).items() if n not in foreign}
        if names:
            going.append((group, names))
    return going


def exceeding(shared: Shared, contents: Contents, limit: float) -> Going:
    """What has to go so that a store has at most ``limit`` bytes: what no run refers to, then chips, then embeddings,
    those of the exports that were finished first before others."""
    excess = contents.bytes - limit
    if excess <= 0:
        return []
    ends = {r.folder: finished(r) for r in shared.runs}
    queue = [entry for i, group in enumerate(contents.groups) for entry in _ages(i, group, shared, ends)]
    heapq.heapify(queue)
    going: dict[int, dict[str, int]] = {}
    while queue and excess > 0:
        *_, i, name, size = heapq.heappop(queue)
        going.setdefault(i, {})[name] = size
        excess -= size
    return [(contents.groups[i], names) for i, names in going.items()]


def _ages(i: int, group: Group, shared: Shared, ends: Mapping[Path, str | None]) -> Iterator[tuple]:
    """(rank, kind, end of the last export that used it, pack, group, name, bytes) of the objects of a group that can go: a
    pack as a whole if possible."""
    references = References(shared.runs)
    last = dict.fromkeys(group.objects, "")
    for run, names in references.uses(group):
        end = ends[run.folder]
        for name in names & last.keys():
            if end is None:
                del last[name]  # an unfinished run needs it
            else:
                last[name] = max(last[name], end)
    for name, end in last.items():
        yield (bool(end), group.kind == "embeddings", end, group.pack_of(name), i, name, group.objects[name])


def finished(entry: RunFolder) -> str | None:
    """When a run was finished; None if it is not, or if its next start tries something again."""
    run = entry.run
    plan, accept = run.plan, run.request.config.continue_on_error
    state, receipt = receipts.examine(run.dir / plan.merge_receipt, plan.merge_key)
    if state != "good":
        return None
    others = (receipts.examine(run.dir / path, key, accept_failures=accept)[0] for path, key in plan.receipts().items())
    return receipt["finished"] if all(other == "good" for other in others) else None


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
        group.remove(names)
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
