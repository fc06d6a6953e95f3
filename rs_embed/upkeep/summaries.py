"""The text and the JSON values that ``status``, ``verify``, ``prune``, ``pack`` and ``stop``
print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

from ..stages.shared.run_result import format_result
from .pack import PackReport
from .problems import VerifyReport
from .prune import Prunable
from .work_folder import WorkFolder

#: Problems in the text, at most; ``--json`` has all.
MAX_PROBLEMS = 50


def format_bytes(number: float) -> str:
    """Bytes as a short text: ``1.2 MB``."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.95 or unit == "TB":
            return f"{number:.1f} {unit}"
    raise AssertionError


def _format_amount(amount: dict) -> str:
    """Files and bytes of a mapping that has both."""
    return f"{_count(amount['files'], 'file')}, {format_bytes(amount['bytes'])}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _align_columns(rows: Iterable[tuple[str, ...]], indent: str = "  ") -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [(indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths))).rstrip() for row in rows]


# status ------------------------------------------------------------------------------------------


def status_lines(found: dict) -> Iterator[str]:
    """The lines of ``rs-embed status``."""
    yield f"work folder {found['work']}"
    yield ""
    yield f"runs: {len(found['runs'])}"
    for run in found["runs"]:
        yield from _run_lines(run)
    for store in found["stores"]:
        yield ""
        yield from _store_lines(store)
    yield ""
    orphaned = found["generations"]["of_runs_that_are_gone"]
    if found["generations"]["files"]:
        more = f", {len(orphaned)} of them of runs that do not exist any more" if orphaned else ""
        yield f"generations (made by resume: false): {found['generations']['files']}{more}"
    if found["leftovers_of_runs"]["files"]:
        yield f"temporary files of dead processes beside runs and targets: {_format_amount(found['leftovers_of_runs'])}"
    yield f"total: {_format_amount(found['total'])}"
    yield f"prune would free: {_format_amount(found['prune'])}"
    if found["prune"]["refused"]:
        yield f"  but not now: {found['prune']['refused']}"


def _run_lines(run: dict) -> Iterator[str]:
    yield f"  {run['name']}: {run['state']}{_format_process(run['running'])}"
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
    if run["result"]:
        yield f"    result   {format_result(run['result'])}"
    if run["failed_rois"] or failed:
        yield f"    failed   {_count(run['failed_rois'], 'ROI')}{f' ({chr(44).join(failed)})' if failed else ''}"
    if run["unreadable_receipts"]:
        yield f"    damaged  {_count(run['unreadable_receipts'], 'receipt')}, which the next start makes again"
    yield from _final_file_lines(run)
    if run["finished"]:
        yield f"    last job {run['finished']}"


def _final_file_lines(run: dict) -> Iterator[str]:
    files = run["files"]
    if files["gone"] or files["changed"]:
        yield f"    files    {files['gone']} of {files['recorded']} are missing, {files['changed']} changed"
    if files["gone"] and files["gone"] == files["recorded"]:
        yield f"             if you do not want them any more, delete {run['folder']} and prune: it still refers to its objects"
    if files["touched"]:
        yield f"    files    {files['touched']} of {files['recorded']} have another time; rs-embed verify reads them"


def _format_process(running: dict | None) -> str:
    if running is None:
        return ""
    return f" ({', '.join(f'{k} {v}' for k, v in running.items()) or 'it has just started'})"


def _store_lines(store: dict) -> Iterator[str]:
    yield f"store {store['path']}: {_format_amount(store)}"
    others = [w["path"] + (" (missing)" if w["gone"] else "") for w in store["works"][1:]]
    if others:
        yield f"  shared with {', '.join(others)}"
    if store["groups"]:
        yield from _align_columns(map(_group_row, store["groups"]))
    for records in store["kept"]:
        if records["there"]:
            chips, bands = _count(records["chips"], "chip"), " ".join(records["bands"])
            export = f"{records['folder']} ({records['run']})"
            yield f"  freed, read back from {export}: {chips} of {records['source']} ({bands})"
    void = sum(not records["there"] for records in store["kept"])
    if void:
        yield f"  records of freed chips whose export is missing: {_count(void, 'file')}; those chips are fetched if they are needed"
    for key, what in (("damaged", "damaged objects set aside"), ("leftovers", "temporary files of dead processes")):
        if store[key]["files"]:
            yield f"  {what}: {_format_amount(store[key])}"


def _group_row(group: dict) -> tuple[str, ...]:
    unreferenced = group["unreferenced"]
    return (
        group["kind"],
        _label(group),
        f"{group['objects']:,}" + (f" in {_count(group['files'], 'file')}" if group["packs"] else ""),
        format_bytes(group["bytes"]),
        _count(len(group["runs"]), "run") if group["runs"] else "no run (an earlier generation or request)",
        f"unreferenced: {_format_amount(unreferenced)}" if unreferenced["bytes"] else "",
    )


def _label(group: dict) -> str:
    return f"{group['id']} ({' '.join(group['bands'])})" if group["bands"] else group["id"]


# prune -------------------------------------------------------------------------------------------

_SMALL_FILES = {
    "declarations": "declarations of folders that are empty then",
    "damaged": "damaged objects set aside",
    "leftovers": "temporary files of dead processes in the store",
    "in_runs": "temporary files of dead processes beside runs and targets",
    "generations": "generations of runs that do not exist any more",
    "registrations": "registrations of work folders that do not exist any more",
    "records": "records of freed chips whose export is missing",
}


def prune_lines(work: WorkFolder, prunable: Prunable, *, done: bool) -> Iterator[str]:
    """The lines of ``rs-embed prune``."""
    for folder in prunable.missing_work_folders:
        yield f"the work folder {folder} used this store and is missing: what only its runs referred to is not needed"
    if not work.run_folders:
        yield f"there is no run in {work.folder / 'runs'}, so this work folder refers to nothing"
    found = prune_json(work, prunable, done=done)
    if not found["files"] and not found["bytes"]:
        yield f"{work.folder}: nothing to remove"
        return
    yield f"{work.folder}: {_format_amount(found)} {'were removed' if done else 'can be removed'}"
    yield from _align_columns(
        (g["kind"], _label(g), f"{g['objects']:,}", format_bytes(g["bytes"]), "all of it" if g["whole"] else "in part")
        for g in found["groups"]
    )
    for key, what in _SMALL_FILES.items():
        if found[key]["files"]:
            yield f"  {what}: {_format_amount(found[key])}"
    if found["spare"]["bytes"]:
        yield f"  of finished exports, above the limit: {_format_amount(found['spare'])}"
    if not done:
        yield "nothing was removed; rs-embed prune --yes removes it"


def prune_json(work: WorkFolder, prunable: Prunable, *, done: bool) -> dict:
    """The values of ``rs-embed prune --json``."""
    groups = [
        {
            "kind": group.kind,
            "id": group.id,
            "bands": list(group.bands) if group.bands else None,
            "files": group.count_files(names),
            "objects": len(names),
            "bytes": sum(names.values()),
            "whole": len(names) == len(group.objects),
        }
        for group, names in prunable.objects
    ]
    small = {key: getattr(prunable, key) for key in _SMALL_FILES}
    return {
        "work": str(work.folder),
        "removed": done,
        "files": prunable.files,
        "bytes": prunable.bytes,
        "groups": groups,
        **{key: {"files": len(files), "bytes": sum(files.values())} for key, files in small.items()},
        "spare": {
            "files": sum(group.count_files(names) for group, names in prunable.over_limit),
            "bytes": sum(sum(names.values()) for _, names in prunable.over_limit),
        },
        "works_gone": list(map(str, prunable.missing_work_folders)),
    }


# pack --------------------------------------------------------------------------------------------


def pack_lines(work: WorkFolder, done: PackReport, *, undo: bool) -> Iterator[str]:
    """The lines of ``rs-embed pack``."""
    yield from (f"note: {note}" for note in done.notes)
    if undo:
        yield f"{work.folder}: {_count(done.loosened, 'object')} in packs are loose again"
        if done.unreadable:
            yield f"{_count(len(done.unreadable), 'pack')} cannot be read and stay; rs-embed verify lists them"
        return
    packed = done.packed
    objects = f"{_count(packed.objects, 'object')} ({format_bytes(packed.bytes)})"
    yield f"{work.folder}: {objects} were put into {_count(packed.packs, 'pack')}"
    if packed.damaged:
        yield f"{_count(len(packed.damaged), 'object')} are damaged and were left as they are; rs-embed verify lists them"


def pack_json(work: WorkFolder, done: PackReport, *, undo: bool) -> dict:
    """The values of ``rs-embed pack --json``."""
    packed = {k: getattr(done.packed, k) for k in ("objects", "bytes", "packs")}
    counts = {"loosened": done.loosened, "unreadable": list(map(str, done.unreadable))} if undo else packed
    return {"work": str(work.folder), **counts, "damaged": list(map(str, done.packed.damaged)), "notes": done.notes}


# verify ------------------------------------------------------------------------------------------


def verify_lines(report: VerifyReport) -> Iterator[str]:
    """The lines of ``rs-embed verify``."""
    yield (
        f"read {_count(report.objects, 'object')}, {_count(report.receipts, 'receipt')} and "
        f"{_count(report.files, 'final file')} ({format_bytes(report.bytes)})"
    )
    yield from (f"note: {note}" for note in report.notes)
    for problem in report.problems[:MAX_PROBLEMS]:
        yield f"{problem.path}"
        yield f"    {problem.what}; {problem.advice}"
    if len(report.problems) > MAX_PROBLEMS:
        yield f"... and {len(report.problems) - MAX_PROBLEMS:,} more (--json has all)"
    if report.problems:
        yield f"{_count(len(report.problems), 'thing')} damaged or missing"
    if report.set_aside or report.withdrawn or report.touched:
        aside, withdrawn = _count(len(report.set_aside), "damaged file"), _count(len(report.withdrawn), "receipt")
        yield f"{aside} moved aside, {withdrawn} withdrawn, {_count(len(report.touched), 'final file')} marked for the next start"
    yield report.next_step


def verify_json(work: WorkFolder, report: VerifyReport) -> dict:
    """The values of ``rs-embed verify --json``."""
    return {
        "work": str(work.folder),
        "whole": report.is_whole,
        "read": {k: getattr(report, k) for k in ("objects", "receipts", "files", "bytes")},
        "problems": [vars(p) for p in report.problems],
        "notes": report.notes,
        "set_aside": list(map(str, report.set_aside)),
        "withdrawn": report.withdrawn,
        "touched": report.touched,
        "next": report.next_step,
    }


@contextlib.contextmanager
def progress_bar(total: int, what: str = "verify", unit: str = "B") -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; gives a function that receives how many
    more units are done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", file=sys.stderr) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


# stop --------------------------------------------------------------------------------------------


def stop_lines(work: WorkFolder, done: dict) -> Iterator[str]:
    """The lines of ``rs-embed stop``."""
    if done["run"] is None:
        yield f"no run is live in {work.folder}"
        return
    more = f"; {_count(done['cancelled'], 'job')} of it in the queue cancelled" if done["cancelled"] else ""
    yield f"{done['run']} was stopped{more}. What was finished is kept: start it again to go on"
