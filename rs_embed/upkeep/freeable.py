"""Objects that finished exports can do without: after success what ``keep_work`` does not keep, and above a limit the
oldest. Nothing that an unfinished run refers to goes, and never a final file."""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import StoreError
from ..runs.run import FREED, TIDIED, Run
from ..store import receipts
from ..store.store import replace_file
from .contents import Contents, Group
from .exported_chips import drop_void, keep
from .references import References
from .work_folder import RunFolder, Shared

#: Objects that can go, by group: name to bytes.
Going = list[tuple[Group, dict[str, int]]]


def dropped(shared: Shared, contents: Contents) -> tuple[Going, list[RunFolder]]:
    """What finished runs leave behind that their own ``keep_work`` does not keep, and that no run refers to which is
    unfinished or keeps it. Of runs that keep embeddings only those chips that their exports were proved to have.

    Returns:
        What can go; finished runs of which nothing was held back for others.
    """
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
    going, held = [], set()
    for group in contents.groups:
        foreign = mine[group.kind].unreferenced(group)
        free = others[group.kind].unreferenced(group)
        names = {n: size for n, size in free.items() if n not in foreign}
        if names:
            going.append((group, names))
        needed = group.objects.keys() - free.keys()
        held |= {entry.folder for entry, used in mine[group.kind].uses(group) if needed & used}
    settled = {e.folder: e for runs in leaving.values() for e in runs if e.folder not in held}
    kept = write_down(going, shared, leaving["chips"])
    careful = References(e for e in leaving["chips"] if e.run.request.config.keep_work == "embeddings")
    going = [(group, _without(group, names, kept.get(id(group), set()), careful)) for group, names in going]
    return [(group, names) for group, names in going if names], list(settled.values())


def _without(group: Group, names: dict[str, int], kept: set[str], careful: References) -> dict[str, int]:
    """What really can go of a group: no chips that would be lost to a run that only frees what it has, and none that say that
    there is no imagery: that is an answer, too, and nowhere else."""
    if group.kind != "chips":
        return names
    promised = group.objects.keys() - careful.unreferenced(group).keys()
    rest = {n for n in names.keys() - kept - promised if not _empty(group, n)}
    return {n: size for n, size in names.items() if n in kept or n in rest}


def _empty(group: Group, name: str) -> bool:
    found = group.held.peek(name)
    return found is not None and found.meta["status"] == "no_data"


def write_down(going: Going, shared: Shared, runs: Iterable[RunFolder]) -> dict[int, set[str]]:
    """Write down how chips can be made again of the exports of finished runs, before they go; those of which it is so, by the
    ``id`` of their group."""
    found: dict[int, set[str]] = {}
    for entry in runs:
        tried = tidied(entry.run)
        for group, names in going:
            if group.kind == "chips":
                found.setdefault(id(group), set()).update(keep(entry, shared.store, group, names, tried=tried))
        drop_void(entry, shared.store)
    return found


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


def tidied(run: Run) -> bool:
    """Space was freed after the very merge that a run's receipt is of, as its request says."""
    try:
        return json.loads((run.dir / TIDIED).read_text()) == _merge(run)
    except (FileNotFoundError, ValueError):
        return False


def settle(run: Run) -> None:
    """Remember that space was freed, and nothing was held back for other runs."""
    replace_file(run.dir / TIDIED, json.dumps(_merge(run)).encode())


def _merge(run: Run) -> list[str | None]:
    try:
        merge = receipts.read(run.dir / run.plan.merge_receipt, run.plan.merge_key)["sha256"]
    except (FileNotFoundError, StoreError):
        merge = None
    return [merge, run.request.config.keep_work]


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
