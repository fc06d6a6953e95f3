"""Is everything whole? Reads every object of the stores, every receipt of the runs and every final file they record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import StoreError
from ..formats import manifest
from ..planning.units import Source
from ..runs.run import Run
from ..stages.repair import expected_files
from ..store import freed_chips, receipts
from .contents import Contents, Group, survey
from .freeable import freed
from .problems import Report
from .work_folder import THREADS, RunFolder, Shared, Work

Task = tuple[int, Callable[[], None]]  # bytes to read, and the reading


def verify(work: Work, progress: Callable[[int], contextlib.AbstractContextManager]) -> Report:
    """Read everything.

    Args:
        progress: from the total number of bytes to a context with a function that is told of bytes that were read.
    """
    report = Report()
    found = {shared.store.root: survey(shared.store) for shared in work.stores}
    tasks: list[Task] = []
    for shared in work.stores:
        tasks += _objects(work, shared, found[shared.store.root], report)
    for entry in work.runs:
        before = len(report.problems)
        tasks += _run(entry, found.get(entry.store, Contents()), report)
        if len(report.problems) > before:
            report.targets[entry.target] = None
    with progress(sum(size for size, _ in tasks)) as advance, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(tasks), 1000):  # so that a million objects are not a million futures
            for size in pool.map(_do, tasks[start : start + 1000]):
                report.bytes += size
                advance(size)
    report.problems.sort(key=lambda p: (p.kind, p.path))
    return report


def _do(task: Task) -> int:
    task[1]()
    return task[0]


def _concerns(work: Work, entry: RunFolder, report: Report) -> None:
    """Starting this run's request again is part of mending; a run of another work folder is mended from there."""
    if entry.folder.parent.parent == work.folder:
        report.targets[entry.target] = None
    else:
        report.elsewhere[str(entry.folder.parent.parent)] = None


# objects -------------------------------------------------------------------------------------------------------


def _objects(work: Work, shared: Shared, contents: Contents, report: Report) -> Iterator[Task]:
    for group in contents.groups:
        if group.declaration is not None and group.bands is None:
            path = group.folder / "bands.json"
            advice = "rs-embed verify --set-aside moves it aside; the next fetch into this folder declares them again"
            report.add("declaration", path, "bands of the chips in its folder: damaged", advice, noticed=False)
            for entry in shared.runs:
                if group.id in entry.run.plan.source:
                    _concerns(work, entry, report)
        for path in group.broken:
            what = "pack: its index is damaged, so what was in it is gone"
            advice = "rs-embed verify --set-aside and another start make it anew"
            report.add("pack", path, what, advice, noticed=False)
        for name, size in group.objects.items():
            report.objects += 1
            yield size, lambda group=group, name=name: _object(work, shared, group, name, report)


def _object(work: Work, shared: Shared, group: Group, name: str, report: Report) -> None:
    what = damage(group, name)
    if what is None:
        return
    needed = _owners(shared, group, name)
    if needed:
        said = f"{_kind(group)} of {needed[0][1]} in the run {needed[0][0].name}"
        said += f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        advice = "rs-embed verify --set-aside and another start of the request make it anew"
        for entry, _ in needed:
            _concerns(work, entry, report)
    else:
        said = f"{_kind(group)} that no run refers to"
        advice = "rs-embed prune --yes removes it"
    report.add("object", group.path(name), f"{said}: {what}", advice, noticed=False)


def damage(group: Group, name: str) -> str | None:
    """What is wrong with an object, or None; also for one that vanished, which is for the receipts to say."""
    path = group.path(name)
    try:
        bands = group.held.verify(name).meta.get("bands")
    except FileNotFoundError:
        return None
    except StoreError as error:
        return str(error).removeprefix(f"damaged object {path}").lstrip(": ")
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if group.bands and sorted(bands or ()) != list(group.bands):
        return f"it holds the bands {bands}, not those of its folder"
    return None


def _kind(group: Group) -> str:
    if group.kind == "embeddings":
        return f"embedding {group.id}"
    return f"chip ({' '.join(group.bands or ('unknown bands',))}) of {group.id}"


def _owners(shared: Shared, group: Group, name: str) -> list[tuple[RunFolder, str]]:
    """The runs that refer to an object, with the first ROI of each that it is of."""
    owners = []
    for entry in shared.runs:
        plan = entry.run.plan
        if group.kind == "chips":
            source = group.id if group.id in plan.source else None
        else:
            source = plan.unit[group.id].source if group.id in {u.id for u in plan.embedded} else None
        if source and name in plan.objects(source):
            owners.append((entry, f"ROI {plan.names[plan.objects(source).index(name)]!r}"))
    return owners


# runs ----------------------------------------------------------------------------------------------------------


def _run(entry: RunFolder, contents: Contents, report: Report) -> Iterator[Task]:
    """Read the receipts of a run and find what they vouch for and is gone; returns the reading of its final files."""
    if entry.running is not None:
        report.notes.append(f"{entry.name} is running: its receipts and final files were not read")
    elif entry.error:
        what = f"request of the run: cannot be read ({entry.error})"
        report.add("request", entry.folder, what, "starting the same request again writes it anew", noticed=True)
    elif entry.run is not None:
        _repairs(entry, report)
        lost = _Lost(entry, contents, report)
        for path, receipt in held_receipts(entry, report):
            report.receipts += 1
            lost.look(path, receipt)
            yield from _files(entry, path, receipt, report)


def held_receipts(entry: RunFolder, report: Report) -> Iterator[tuple[str, dict]]:
    """The receipts of a run that hold, one after the other. A finished run has all of them, an unfinished one need not."""
    plan, missing = entry.run.plan, 0
    wanted = {plan.merge_receipt: plan.merge_key} | plan.receipts()
    finished = False
    for path, key in wanted.items():
        full = entry.run.dir / path
        try:
            receipt = receipts.read(full)
            what = None if receipt.get("key") == key else "made for another request"
        except FileNotFoundError:
            what = "gone"
        except StoreError:
            report.add("receipt", full, "receipt: unreadable", "the next start makes it anew", noticed=True)
            missing += 1
            continue
        if what is None:
            finished = finished or path == plan.merge_receipt
            yield path, receipt
        elif finished:
            what = f"receipt of a finished run: {what}"
            report.add("receipt", full, what, "the next start makes it anew", noticed=True)
        missing += what is not None
    if missing and not finished:
        report.notes.append(f"{entry.name} is not finished: {missing} of its {len(wanted)} receipts are to come")


def _repairs(entry: RunFolder, report: Report) -> None:
    for path in (entry.run.dir / "repairs").glob("*.json"):
        try:
            receipts.read(path)
            report.receipts += 1
        except StoreError:  # no start minds: the digests of the files decide
            report.notes.append(f"{path} (receipt of a repair) is unreadable; the files it was about are read")


class _Lost:
    """Looks for objects that receipts vouch for and that are gone; chips only where something may read them."""

    def __init__(self, entry: RunFolder, contents: Contents, report: Report) -> None:
        self.entry, self.run, self.report = entry, entry.run, report
        self.embedded = {g.id: g.objects for g in contents.groups if g.kind == "embeddings"}
        self.chips = [g for g in contents.groups if g.kind == "chips"]

        self.freed = freed(entry.folder)
        if self.freed:
            kinds = " and ".join(sorted(self.freed))
            report.notes.append(
                f"{entry.name}: its {kinds} were freed after it was finished (keep_work or a limit), and are not missed"
                + _recorded(self.run)
            )

    def look(self, path: str, receipt: dict) -> None:
        """Look for the objects of one receipt."""
        step, _, rest = path.partition("/")
        if {"fetch": "chips", "embed": "embeddings"}.get(step) in self.freed:
            return
        names = (
            [row["object"] for row in receipt["rows"] if row["status"] != "failed"]
            if step in ("fetch", "embed")
            else []
        )
        for name in dict.fromkeys(names):
            if step == "embed":
                self._embedding(rest.split("/")[0], name)
            else:
                self._chip(self.run.plan.source[rest.split("/")[0]], name)

    def _embedding(self, unit: str, name: str) -> None:
        if name not in self.embedded.get(unit, ()):
            self._gone(self.run.store.embedding(unit, name), f"embedding {unit}")

    def _chip(self, source: Source, name: str) -> None:
        readers = [u for u in self.run.plan.embedded if u.source == source.id]
        readers = [u for u in readers if name not in self.embedded.get(u.id, ())]
        need = (
            set(source.bands) if self.run.request.config.save_inputs else {b for u in readers for b in u.sensor.bands}
        )
        for group in self.chips:
            if group.id == source.id and name in group.objects:
                need -= set(group.bands or source.bands)
        if need:
            bands = " ".join(b for b in source.bands if b in need)
            self._gone(self.run.store.chip(source.id, source.bands, name), f"chip ({bands}) of {source.id}")

    def _gone(self, path: Path, what: str) -> None:
        advice = "rs-embed verify --set-aside and another start make it anew; a finished export does not need it"
        self.report.add("object", path, f"{what} in the run {self.entry.name}: gone", advice, noticed=False)


def _recorded(run: Run) -> str:
    """What of freed chips can be read back, in words. A damaged record mends nobody: its chip is fetched if it is needed."""
    whole = damaged = 0
    for path in freed_chips.of_run(run.store, run.dir):
        with freed_chips.opened(path, run.store) or contextlib.nullcontext() as records:
            found = [record is not None for record in records or ()]
        whole += sum(found)
        damaged += len(found) - sum(found) + (records is None)
    said = f"; {whole} chips are read back from the export when they are needed" if whole else ""
    return said + (f"; {damaged} records of such chips are damaged: those are fetched again" if damaged else "")


def _files(entry: RunFolder, path: str, receipt: dict, report: Report) -> Iterator[Task]:
    """The final files that a receipt records, with later repairs, and the records of a chunk."""
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
            what = "receipt: without the records it should vouch for"
            report.add("receipt", run.dir / path, what, "the next start makes it anew", noticed=True)
    for kind, folder, record in found:
        report.files += kind == "final file"
        full = os.path.normpath(folder / record["path"])
        yield record["size"], lambda kind=kind, full=full, record=record: _file(entry, kind, full, record, report)


def _file(entry: RunFolder, kind: str, path: str, record: dict, report: Report) -> None:
    try:
        now = manifest.file_record(path)
    except OSError as error:
        what, noticed = "gone" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})", True
    else:
        if (now["size"], now["sha256"]) == (record["size"], record["sha256"]):
            return
        if entry.run.plan.layout == "combined" and manifest.of_another(path, entry.target):
            report.notes.append(
                f"{path} is now that of the other file format; a start of {entry.name} writes its own again"
            )
            return
        what = "changed since it was written"
        noticed = (now["size"], now["mtime_ns"]) != (record["size"], record["mtime_ns"])
    advice = "the next start makes it anew" if noticed else "rs-embed verify --set-aside and another start make it anew"
    report.add("file", path, f"{kind} of the run {entry.name}: {what}", advice, noticed=noticed)
    report.targets[entry.target] = None
