"""What the four commands print: from what was found to short, aligned text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

from .pack import Packing
from .problems import Report
from .prune import Waste
from .work_folder import Work

#: Problems that are printed; ``--json`` has all.
SHOWN = 50


def size(number: float) -> str:
    """Bytes for people: ``1.2 MB``."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.95 or unit == "TB":
            return f"{number:.1f} {unit}"
    raise AssertionError


def amount(files: dict) -> str:
    """Files and bytes of a mapping with both."""
    return f"{_count(files['files'], 'file')}, {size(files['bytes'])}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(rows: Iterable[tuple[str, ...]], indent: str = "  ") -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [(indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths))).rstrip() for row in rows]


# status --------------------------------------------------------------------------------------------------------


def status(found: dict) -> Iterator[str]:
    """The lines of ``rs-embed status``."""
    yield f"work folder {found['work']}"
    yield ""
    yield f"runs: {len(found['runs'])}"
    for run in found["runs"]:
        yield from _run(run)
    for store in found["stores"]:
        yield ""
        yield from _store(store)
    yield ""
    gone = found["generations"]["of_runs_that_are_gone"]
    if found["generations"]["files"]:
        rest = f", {len(gone)} of them of runs that are gone" if gone else ""
        yield f"generations (made by resume: false): {found['generations']['files']}{rest}"
    if found["leftovers_of_runs"]["files"]:
        yield f"temporary files of dead processes beside runs and targets: {amount(found['leftovers_of_runs'])}"
    yield f"total: {amount(found['total'])}"
    yield f"prune would free: {amount(found['prune'])}"
    if found["prune"]["refused"]:
        yield f"  but not now: {found['prune']['refused']}"


def _run(run: dict) -> Iterator[str]:
    yield f"  {run['name']}: {run['state']}{_since(run['running'])}"
    if run["error"]:
        yield f"    its request cannot be read: {run['error']}"
    if "target" not in run:
        return
    yield f"    target   {run['target']} ({run['layout']})"
    yield f"    request  {_count(run['rois'], 'ROI')} x {', '.join(run['models'])}"
    if run["state"] in ("incomplete", "running"):
        done = (f"{'write' if k == 'items' else k} {s['done']}/{s['of']}" for k, s in run["stages"].items())
        yield f"    done     {', '.join(done)} jobs"
    failed = [f"{s['failed']} in {k}" for k, s in run["stages"].items() if s["failed"] and k != "items"]
    if run["failed_rois"] or failed:
        yield f"    failed   {_count(run['failed_rois'], 'ROI')}{f' ({chr(44).join(failed)})' if failed else ''}"
    if run["unreadable_receipts"]:
        yield f"    damaged  {_count(run['unreadable_receipts'], 'receipt')}, which the next start makes anew"
    files = run["files"]
    if files["gone"] or files["changed"]:
        yield f"    files    {files['gone']} of {files['recorded']} are gone, {files['changed']} changed"
    if files["gone"] and files["gone"] == files["recorded"]:
        yield f"             if they are not wanted any more, delete {run['folder']} and prune: it still refers to its objects"
    if files["touched"]:
        yield f"    files    {files['touched']} of {files['recorded']} have another time; rs-embed verify reads them"
    if run["finished"]:
        yield f"    last job {run['finished']}"


def _since(running: dict | None) -> str:
    if running is None:
        return ""
    return f" ({', '.join(f'{k} {v}' for k, v in running.items()) or 'it has just started'})"


def _store(store: dict) -> Iterator[str]:
    yield f"store {store['path']}: {amount(store)}"
    others = [w["path"] + (" (gone)" if w["gone"] else "") for w in store["works"][1:]]
    if others:
        yield f"  shared with {', '.join(others)}"
    if store["groups"]:
        yield from _table(
            (
                g["kind"],
                _called(g),
                f"{g['objects']:,}" + (f" in {_count(g['files'], 'file')}" if g["packs"] else ""),
                size(g["bytes"]),
                _count(len(g["runs"]), "run") if g["runs"] else "no run (an earlier generation or request)",
                f"unreferenced: {amount(g['unreferenced'])}" if g["unreferenced"]["bytes"] else "",
            )
            for g in store["groups"]
        )
    for kept in store["kept"]:
        if kept["there"]:
            bands = " ".join(kept["bands"])
            yield f"  freed, read back from {kept['folder']} ({kept['run']}): {_count(kept['chips'], 'chip')} of {kept['source']} ({bands})"
    void = sum(not kept["there"] for kept in store["kept"])
    if void:
        yield f"  records of freed chips whose export is gone: {_count(void, 'file')}; those chips are fetched if they are needed"
    for key, what in (("damaged", "damaged objects set aside"), ("leftovers", "temporary files of dead processes")):
        if store[key]["files"]:
            yield f"  {what}: {amount(store[key])}"


def _called(group: dict) -> str:
    return f"{group['id']} ({' '.join(group['bands'])})" if group["bands"] else group["id"]


# prune ---------------------------------------------------------------------------------------------------------


def prune(work: Work, waste: Waste, *, done: bool) -> Iterator[str]:
    """The lines of ``rs-embed prune``."""
    for folder in waste.gone:
        yield f"the work folder {folder} used this store and is gone: what only its runs referred to is not needed"
    if not work.runs:
        yield f"there is no run in {work.folder / 'runs'}, so this work folder refers to nothing"
    found = prune_json(work, waste, done=done)
    if not found["files"] and not found["bytes"]:
        yield f"{work.folder}: nothing to remove"
        return
    yield f"{work.folder}: {amount(found)} {'were removed' if done else 'can be removed'}"
    yield from _table(
        (g["kind"], _called(g), f"{g['objects']:,}", size(g["bytes"]), "all of it" if g["whole"] else "in part")
        for g in found["groups"]
    )
    for key, what in _SMALL.items():
        if found[key]["files"]:
            yield f"  {what}: {amount(found[key])}"
    if found["spare"]["bytes"]:
        yield f"  of finished exports, above the limit: {amount(found['spare'])}"
    if not done:
        yield "nothing was removed; rs-embed prune --yes removes it"


_SMALL = {
    "declarations": "declarations of folders that are empty then",
    "damaged": "damaged objects set aside",
    "leftovers": "temporary files of dead processes in the store",
    "in_runs": "temporary files of dead processes beside runs and targets",
    "generations": "generations of runs that are gone",
    "registrations": "registrations of work folders that are gone",
    "records": "records of freed chips whose export is gone",
}


def prune_json(work: Work, waste: Waste, *, done: bool) -> dict:
    """What ``rs-embed prune --json`` says."""
    groups = [
        {
            "kind": group.kind,
            "id": group.id,
            "bands": list(group.bands) if group.bands else None,
            "files": group.files(names),
            "objects": len(names),
            "bytes": sum(names.values()),
            "whole": len(names) == len(group.objects),
        }
        for group, names in waste.objects
    ]
    small = {key: getattr(waste, key) for key in _SMALL}
    return {
        "work": str(work.folder),
        "removed": done,
        "files": waste.files,
        "bytes": waste.bytes,
        "groups": groups,
        **{key: {"files": len(files), "bytes": sum(files.values())} for key, files in small.items()},
        "spare": {
            "files": sum(group.files(names) for group, names in waste.spare),
            "bytes": sum(sum(names.values()) for _, names in waste.spare),
        },
        "works_gone": list(map(str, waste.gone)),
    }


# pack ----------------------------------------------------------------------------------------------------------


def pack(work: Work, done: Packing, *, undo: bool) -> Iterator[str]:
    """The lines of ``rs-embed pack``."""
    yield from (f"note: {note}" for note in done.notes)
    if undo:
        yield f"{work.folder}: {_count(done.loosened, 'object')} in packs are loose again"
        if done.unreadable:
            yield f"{_count(len(done.unreadable), 'pack')} cannot be read and stay; rs-embed verify says which"
        return
    packed = done.packed
    yield f"{work.folder}: {_count(packed.objects, 'object')} ({size(packed.bytes)}) were put into {_count(packed.packs, 'pack')}"
    if packed.damaged:
        yield f"{_count(len(packed.damaged), 'object')} are damaged and were left as they are; rs-embed verify says which"


def pack_json(work: Work, done: Packing, *, undo: bool) -> dict:
    """What ``rs-embed pack --json`` says."""
    packed = {k: getattr(done.packed, k) for k in ("objects", "bytes", "packs")}
    said = {"loosened": done.loosened, "unreadable": list(map(str, done.unreadable))} if undo else packed
    return {"work": str(work.folder), **said, "damaged": list(map(str, done.packed.damaged)), "notes": done.notes}


# verify --------------------------------------------------------------------------------------------------------


def verify(report: Report) -> Iterator[str]:
    """The lines of ``rs-embed verify``."""
    yield (
        f"read {_count(report.objects, 'object')}, {_count(report.receipts, 'receipt')} and "
        f"{_count(report.files, 'final file')} ({size(report.bytes)})"
    )
    yield from (f"note: {note}" for note in report.notes)
    for problem in report.problems[:SHOWN]:
        yield f"{problem.path}"
        yield f"    {problem.what}; {problem.advice}"
    if len(report.problems) > SHOWN:
        yield f"... and {len(report.problems) - SHOWN:,} more (--json has all)"
    if report.problems:
        yield f"{_count(len(report.problems), 'thing')} damaged or missing"
    if report.aside or report.withdrawn or report.touched:
        aside, withdrawn = _count(len(report.aside), "damaged file"), _count(len(report.withdrawn), "receipt")
        yield f"{aside} moved aside, {withdrawn} withdrawn, {_count(len(report.touched), 'final file')} marked for the next start"
    yield report.next


def verify_json(work: Work, report: Report) -> dict:
    """What ``rs-embed verify --json`` says."""
    return {
        "work": str(work.folder),
        "whole": report.whole,
        "read": {k: getattr(report, k) for k in ("objects", "receipts", "files", "bytes")},
        "problems": [vars(p) for p in report.problems],
        "notes": report.notes,
        "set_aside": list(map(str, report.aside)),
        "withdrawn": report.withdrawn,
        "touched": report.touched,
        "next": report.next,
    }


@contextlib.contextmanager
def progress(total: int, what: str = "verify", unit: str = "B") -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", file=sys.stderr) as bar:
        yield bar.update


# stop ----------------------------------------------------------------------------------------------------------


def stop(work: Work, done: dict) -> Iterator[str]:
    """The lines of ``rs-embed stop``."""
    if done["run"] is None:
        yield f"no run is live in {work.folder}"
        return
    more = f"; {_count(done['cancelled'], 'job')} of it in the queue cancelled" if done["cancelled"] else ""
    yield f"{done['run']} was stopped{more}. What was finished is kept: start it again to go on"
