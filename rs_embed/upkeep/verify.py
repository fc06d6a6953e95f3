"""``rs-embed verify``: reads every object of the stores, every receipt of the runs and every final
file that they record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ..errors import StoreError
from ..formats import manifest
from ..planning.units import Source
from ..runs.run import Run
from ..stages.shared.chunk_files import expected_files
from ..store import freed_chips, receipts
from .contents import StoreContents, StoredGroup, scan_store
from .freeable import freed_kinds
from .pack import Progress
from .problems import VerifyReport
from .work_folder import READ_THREADS, LoadedRun, RunFolder, SharedStore, WorkFolder

Task = tuple[int, Callable[[], None]]  # bytes to read, and a function that reads them
#: Tasks that are queued at a time: a million objects must not be a million futures.
_BATCH = 1000
_NEXT_START = "the next start makes it again"
_SET_ASIDE = "rs-embed verify --set-aside and another start make it again"


def verify(work: WorkFolder, progress: Progress) -> VerifyReport:
    """Read everything.

    Args:
        progress: from the total number of bytes to a context with a function that receives how
            many more were read.
    """
    report = VerifyReport()
    contents = {shared.store.root: scan_store(shared.store) for shared in work.stores}
    tasks: list[Task] = []
    for shared in work.stores:
        tasks += _object_tasks(work, shared, contents[shared.store.root], report)
    for entry in work.run_folders:
        before = len(report.problems)
        store = contents.get(entry.store) if isinstance(entry, LoadedRun) else None
        tasks += _run_tasks(entry, store or StoreContents(), report)
        if len(report.problems) > before:
            report.targets[entry.target] = None
    with progress(sum(size for size, _ in tasks)) as advance, ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(tasks), _BATCH):
            for size in pool.map(_run_task, tasks[start : start + _BATCH]):
                report.bytes += size
                advance(size)
    report.problems.sort(key=lambda p: (p.kind, p.path))
    return report


def _run_task(task: Task) -> int:
    size, read = task
    read()
    return size


def _add_affected_run(work: WorkFolder, entry: RunFolder, report: VerifyReport) -> None:
    """A start of this run's request is part of the repair; a run of another work folder is
    repaired from there."""
    if entry.folder.parent.parent == work.folder:
        report.targets[entry.target] = None
    else:
        report.other_work_folders[str(entry.folder.parent.parent)] = None


# objects -----------------------------------------------------------------------------------------


def _object_tasks(
    work: WorkFolder, shared: SharedStore, contents: StoreContents, report: VerifyReport
) -> Iterator[Task]:
    """Check declarations and packs; yields a task for every object."""
    for group in contents.groups:
        if group.declaration is not None and group.bands is None:
            path = group.folder / "bands.json"
            advice = "rs-embed verify --set-aside moves it aside; the next fetch into this folder declares them again"
            report.add("declaration", path, "bands of the chips in its folder: damaged", advice, noticed=False)
            for entry in shared.runs:
                if group.id in entry.run.plan.source:
                    _add_affected_run(work, entry, report)
        for path in group.broken:
            what = "pack: its index is damaged, so its objects are lost"
            report.add("pack", path, what, _SET_ASIDE, noticed=False)
        for name, size in group.objects.items():
            report.objects += 1
            yield size, partial(_check_object, work, shared, group, name, report)


def _check_object(work: WorkFolder, shared: SharedStore, group: StoredGroup, name: str, report: VerifyReport) -> None:
    damage = describe_damage(group, name)
    if damage is None:
        return
    users = _find_users(shared, group, name)
    if users:
        what = f"{_describe_group(group)} of {users[0][1]} in the run {users[0][0].name}"
        what += f" and {len(users) - 1} more" if len(users) > 1 else ""
        advice = "rs-embed verify --set-aside and another start of the request make it again"
        for entry, _ in users:
            _add_affected_run(work, entry, report)
    else:
        what = f"{_describe_group(group)} that no run refers to"
        advice = "rs-embed prune --yes removes it"
    report.add("object", group.path(name), f"{what}: {damage}", advice, noticed=False)


def describe_damage(group: StoredGroup, name: str) -> str | None:
    """What is wrong with an object, or None; also None for a missing object, which the check of
    receipts reports."""
    path = group.path(name)
    try:
        bands = group.store_group.verify(name).meta.get("bands")
    except FileNotFoundError:
        return None
    except StoreError as error:
        return str(error).removeprefix(f"damaged object {path}").lstrip(": ")
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if group.bands and sorted(bands or ()) != list(group.bands):
        return f"it has the bands {bands}, not those of its folder"
    return None


def _describe_group(group: StoredGroup) -> str:
    if group.kind == "embeddings":
        return f"embedding {group.id}"
    return f"chip ({' '.join(group.bands or ('unknown bands',))}) of {group.id}"


def _find_users(shared: SharedStore, group: StoredGroup, name: str) -> list[tuple[RunFolder, str]]:
    """The runs that refer to an object, each with the first ROI whose object it is."""
    users: list[tuple[RunFolder, str]] = []
    for entry in shared.runs:
        plan = entry.run.plan
        rois: Sequence[int] = range(len(plan.roi_ids))
        if group.kind == "chips":
            source = group.id if group.id in plan.source else None
            rois = plan.rois_of(source) if source else ()
        else:
            source = plan.unit[group.id].source if group.id in {u.id for u in plan.embedded_units} else None
        if source and name in (objects := plan.object_names(source)) and (index := objects.index(name)) in rois:
            users.append((entry, f"ROI {plan.names[index]!r}"))
    return users


# runs --------------------------------------------------------------------------------------------


def _run_tasks(entry: RunFolder, contents: StoreContents, report: VerifyReport) -> Iterator[Task]:
    """Check the receipts of a run and the objects that they list; yields a task for each of its
    final files."""
    if entry.running is not None:
        report.notes.append(f"{entry.name} is running: its receipts and final files were not read")
    elif entry.error:
        what = f"request of the run: cannot be read ({entry.error})"
        report.add("request", entry.folder, what, "starting the same request again replaces it", noticed=True)
    elif isinstance(entry, LoadedRun):
        _check_repair_receipts(entry, report)
        objects = _ListedObjects(entry, contents, report)
        for path, receipt in _valid_receipts(entry, report):
            report.receipts += 1
            objects.check(path, receipt)
            yield from _file_tasks(entry, path, receipt, report)


def _valid_receipts(entry: LoadedRun, report: VerifyReport) -> Iterator[tuple[str, dict]]:
    """The valid receipts of a run, one after the other. A finished run must have all of them, an
    unfinished one need not."""
    plan, missing = entry.run.plan, 0
    expected = {plan.merge_receipt: plan.merge_key} | plan.receipts()
    finished = False
    for path, key in expected.items():
        full = entry.run.dir / path
        try:
            receipt = receipts.read(full)
        except FileNotFoundError:
            problem = "missing"
        except StoreError:
            report.add("receipt", full, "receipt: unreadable", _NEXT_START, noticed=True)
            missing += 1
            continue
        else:
            if receipt.get("key") == key:
                finished = finished or path == plan.merge_receipt
                yield path, receipt
                continue
            problem = "made for another request"
        missing += 1
        if finished:
            report.add("receipt", full, f"receipt of a finished run: {problem}", _NEXT_START, noticed=True)
    if missing and not finished:
        report.notes.append(f"{entry.name} is not finished: {missing} of its {len(expected)} receipts are to come")


def _check_repair_receipts(entry: LoadedRun, report: VerifyReport) -> None:
    for path in (entry.run.dir / "repairs").glob("*.json"):
        try:
            receipts.read(path)
            report.receipts += 1
        except StoreError:  # a start ignores it: the digests of the files decide
            report.notes.append(f"{path} (receipt of a repair) is unreadable; the files that it lists are read")


class _ListedObjects:
    """Checks whether the objects exist that receipts list; chips only where something may read
    them."""

    def __init__(self, entry: LoadedRun, contents: StoreContents, report: VerifyReport) -> None:
        self.entry, self.run, self.report = entry, entry.run, report
        self.embedded = {g.id: g.objects for g in contents.groups if g.kind == "embeddings"}
        self.chips = [g for g in contents.groups if g.kind == "chips"]

        self.freed = freed_kinds(entry.folder)
        if self.freed:
            kinds = " and ".join(sorted(self.freed))
            report.notes.append(
                f"{entry.name}: its {kinds} were freed after it was finished (keep_work or a limit), and are not missed"
                + _describe_freed_chips(self.run)
            )

    def check(self, path: str, receipt: dict) -> None:
        """Check the objects of one receipt."""
        step, _, remaining = path.partition("/")
        if step not in ("fetch", "embed") or {"fetch": "chips", "embed": "embeddings"}[step] in self.freed:
            return
        ident, plan, span = remaining.split("/")[0], self.run.plan, Path(remaining).stem
        if step == "embed":
            for name in dict.fromkeys(row["object"] for row in receipt["rows"] if row["status"] != "failed"):
                self._check_embedding(ident, name)
            return
        rois = plan.rois_of(ident, plan.parts[span].start, plan.parts[span].stop)
        listed = {row["object"]: i for i, row in zip(rois, receipt["rows"]) if row["status"] != "failed"}
        for name, index in listed.items():
            self._check_chip(plan.source[ident], index, name)

    def _check_embedding(self, unit: str, name: str) -> None:
        if name not in self.embedded.get(unit, ()):
            self._report_missing(self.run.store.embedding_path(unit, name), f"embedding {unit}")

    def _check_chip(self, source: Source, index: int, name: str) -> None:
        readers = self.run.plan.readers(source.id, index)
        if not self.run.request.config.save_inputs:
            readers = tuple(u for u in readers if name not in self.embedded.get(u.id, ()))
        need = {b for u in readers for b in u.sensor.bands}
        for group in self.chips:
            if group.id == source.id and name in group.objects:
                need -= set(group.bands or source.bands)
        if need:
            bands = " ".join(b for b in source.bands if b in need)
            path = self.run.store.chip_path(source.id, source.bands, name)
            self._report_missing(path, f"chip ({bands}) of {source.id}")

    def _report_missing(self, path: Path, what: str) -> None:
        advice = f"{_SET_ASIDE}; a finished export does not need it"
        self.report.add("object", path, f"{what} in the run {self.entry.name}: missing", advice, noticed=False)


def _describe_freed_chips(run: Run) -> str:
    """How many freed chips can be read back. A damaged record is no problem: its chip is fetched
    again."""
    whole = damaged = 0
    for path in freed_chips.list_run_records(run.store, run.dir):
        with freed_chips.open_records(path, run.store) or contextlib.nullcontext() as records:
            found = [record is not None for record in records or ()]
        whole += sum(found)
        damaged += len(found) - sum(found) + (records is None)
    text = f"; {whole} chips are read back from the export when they are needed" if whole else ""
    return text + (f"; {damaged} records of such chips are damaged: those are fetched again" if damaged else "")


def _file_tasks(entry: LoadedRun, path: str, receipt: dict, report: VerifyReport) -> Iterator[Task]:
    """A task for each final file that a receipt lists, with later repairs, and for the records of
    a chunk."""
    run, step = entry.run, path.split("/")[0].removesuffix(".json")
    base, records = run.dir, receipt["rows"] if step == "merge" else []
    if step == "items" and run.plan.layout == "per_item":
        base = run.dir / run.plan.target
        records = [record for _, record in expected_files(run, Path(path).stem, receipt).values()]
    found = [("final file", base, record) for record in records]
    if step == "items":
        if "records" in receipt:
            found.append(("records", run.dir, receipt["records"]))
        else:
            what = "receipt: without the records it should list"
            report.add("receipt", run.dir / path, what, _NEXT_START, noticed=True)
    for kind, folder, record in found:
        report.files += kind == "final file"
        full = os.path.normpath(folder / record["path"])
        yield record["size"], partial(_check_file, entry, kind, full, record, report)


def _check_file(entry: LoadedRun, kind: str, path: str, record: dict, report: VerifyReport) -> None:
    """Compare a file with its record in a receipt."""
    try:
        now = manifest.file_record(path)
    except OSError as error:
        noticed = True
        what = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    else:
        if (now["size"], now["sha256"]) == (record["size"], record["sha256"]):
            return
        if entry.run.plan.layout == "combined" and manifest.belongs_to_other_file(path, entry.target):
            report.notes.append(
                f"{path} is now that of the other file format; a start of {entry.name} writes its own again"
            )
            return
        what = "changed since it was written"
        noticed = (now["size"], now["mtime_ns"]) != (record["size"], record["mtime_ns"])
    advice = _NEXT_START if noticed else _SET_ASIDE
    report.add("file", path, f"{kind} of the run {entry.name}: {what}", advice, noticed=noticed)
    report.targets[entry.target] = None
