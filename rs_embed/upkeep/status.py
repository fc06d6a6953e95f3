"""``rs-embed status``: the state of a work folder. Receipts are read once; other files are only
looked up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..formats import manifest
from ..stages.shared.chunk_files import expected_files
from ..store import freed_chips, receipts
from . import prune
from .contents import FileSizes, StoreContents, StoredGroup, scan_store, walk_files
from .freeable import freed_kinds
from .references import References
from .work_folder import LoadedRun, RunFolder, SharedStore, WorkFolder

#: What the jobs of a stage are counted by.
_JOBS_PER = {"fetch": "parts", "embed": "chunks", "items": "chunks"}


def collect_status(work: WorkFolder) -> dict:
    """Everything that ``rs-embed status`` reports, as JSON values."""
    contents = {shared.store.root: scan_store(shared.store) for shared in work.stores}
    prunable = prune.find_prunable(work, contents)
    files = walk_files(work.folder)
    other = [stat.st_size for path, stat in files if not any(path.is_relative_to(root) for root in contents)]
    return {
        "work": str(work.folder),
        "runs": [collect_run_status(r) for r in work.run_folders],
        "stores": [_store_status(shared, contents[shared.store.root]) for shared in work.stores],
        "generations": {
            "files": len(list((work.folder / "generations").glob("*.json"))),
            "of_runs_that_are_gone": [p.stem for p in work.orphaned_generations],
        },
        "leftovers_of_runs": _sum_files(prunable.in_runs),
        "prune": {"files": prunable.files, "bytes": prunable.bytes, "refused": prune.find_refusal(work)},
        "total": {
            "files": len(other) + sum(c.files for c in contents.values()),
            "bytes": sum(other) + sum(c.bytes for c in contents.values()),
        },
    }


def collect_run_status(entry: RunFolder) -> dict:
    """The state of one run: its jobs, the process that works on it, its final files."""
    status = {"name": entry.name, "folder": str(entry.folder), "running": entry.running, "error": entry.error}
    if not isinstance(entry, LoadedRun):
        return status | {"state": "unreadable" if entry.error else "running" if entry.running is not None else "empty"}
    plan, counts = entry.run.plan, _RunCounts(entry)
    state = "complete" if counts.complete else "incomplete"
    if state == "complete" and (counts.gone or counts.changed):
        state = "files gone" if counts.gone == counts.recorded else "files changed"
    return status | {
        "state": "running" if entry.running is not None else state,
        "target": entry.target,
        "layout": plan.layout,
        "rois": len(plan.roi_ids),
        "models": [u.label for u in plan.units],
        "store": str(entry.store),
        "freed": sorted(freed_kinds(entry.folder)),
        "stages": counts.stages,
        "failed_rois": counts.failed_rois,
        "result": counts.result,
        "unreadable_receipts": counts.unreadable,
        "files": {k: getattr(counts, k) for k in ("recorded", "gone", "changed", "touched")},
        "finished": counts.finished,
    }


class _RunCounts:
    """Counts from one pass over the receipts of a run.

    Attributes:
        stages: jobs by stage: done, all (``of``), failed. complete: all jobs are done. finished:
            end of the last job.
        result: counts of a merge (``stages/shared/run_result.py``), or None.
        failed_rois: ROIs that failed, at least in part. unreadable: receipts that cannot be read.
        recorded: final files in receipts; of these ``gone``: missing, ``changed``: of another
            size, ``touched``: of another time.
    """

    def __init__(self, entry: LoadedRun) -> None:
        self.run, plan = entry.run, entry.run.plan
        self.stages: dict[str, dict[str, Any]] = {
            stage: {"done": 0, "of": 0, "failed": 0, "unit": unit} for stage, unit in _JOBS_PER.items()
        }
        self.stages["merge"] = {"done": 0, "of": 1, "failed": 0, "unit": "run"}
        self.failed_rois = self.unreadable = self.recorded = self.gone = self.changed = self.touched = 0
        self.finished: str | None = None
        self.result: dict | None = None
        for path, key in (plan.receipts() | {plan.merge_receipt: plan.merge_key}).items():
            stage = path.split("/")[0].removesuffix(".json")
            self.stages[stage]["of"] += stage != "merge"
            receipt = self._read_receipt(path, key)
            if receipt is not None:
                self._count_receipt(stage, path, receipt)
        self.complete = all(s["done"] == s["of"] for s in self.stages.values())

    def _read_receipt(self, path: str, key: str) -> dict | None:
        """A valid receipt; None for any other, and where it does not exist."""
        try:
            receipt = receipts.read(self.run.dir / path)
        except FileNotFoundError:
            return None
        except StoreError:
            self.unreadable += 1
            return None
        if "records" in receipt and self._file_size(receipt["records"]) != receipt["records"]["size"]:
            self.unreadable += 1
            return None
        return receipt if receipt.get("key") == key else None

    def _file_size(self, record: dict) -> int | None:
        try:
            return os.stat(self.run.dir / record["path"]).st_size
        except OSError:
            return None

    def _count_receipt(self, stage: str, path: str, receipt: dict) -> None:
        failed = sum(row.get("status") in ("failed", "partial") for row in receipt["rows"])
        self.stages[stage]["done"] += 1
        self.stages[stage]["failed"] += failed
        self.finished = max(self.finished or "", receipt.get("finished", "")) or None
        if stage == "items":
            self.failed_rois += failed
            target = os.path.normpath(self.run.dir / self.run.plan.target)
            for _, record in expected_files(self.run, Path(path).stem, receipt).values():
                self._count_file(os.path.join(target, record["path"]), record)
        elif stage == "merge":
            self.result = receipt.get("result")
            for record in receipt["rows"]:
                self._count_file(os.path.join(self.run.dir, record["path"]), record)

    def _count_file(self, path: str, record: dict) -> None:
        self.recorded += 1
        try:
            stat = os.stat(path)
        except OSError:
            self.gone += 1
            return
        other_size, plan = stat.st_size != record["size"], self.run.plan
        if other_size and plan.layout == "combined" and manifest.belongs_to_other_file(path, plan.target):
            return  # of the other file format, not damaged
        self.changed += other_size
        self.touched += stat.st_size == record["size"] and stat.st_mtime_ns != record["mtime_ns"]


def _store_status(shared: SharedStore, contents: StoreContents) -> dict:
    references = References(shared.runs)
    sources = {s.id: s for r in shared.runs for s in r.run.plan.sources}
    return {
        "path": str(shared.store.root),
        "files": contents.files,
        "bytes": contents.bytes,
        "works": [{"path": str(w), "gone": False} for w in shared.work_folders]
        + [{"path": str(w), "gone": True} for w in shared.missing.values()],
        "unreadable_registrations": list(map(str, shared.unreadable)),
        "groups": [
            _group_status(g, references)
            | ({"collection": sources[g.id].identity.get("collection")} if g.id in sources else {})
            for g in sorted(contents.groups, key=lambda g: (g.kind, g.id, g.folder.name))
        ],
        "kept": [_records_status(path, shared) for path in freed_chips.list_all_records(shared.store)],
        "damaged": _sum_files(contents.damaged),
        "leftovers": _sum_files(contents.leftovers),
    }


def _group_status(group: StoredGroup, references: References) -> dict:
    unreferenced = references.unreferenced(group)
    return {
        "kind": group.kind,
        "id": group.id,
        "bands": list(group.bands) if group.bands else None,
        "files": len(group.objects) - len(group.packed) + len(group.packs),
        "bytes": sum(group.objects.values()) + group.overhead,
        "objects": len(group.objects),
        "packs": len(group.packs),
        "unreferenced": {"files": group.count_files(unreferenced), "bytes": sum(unreferenced.values())},
        "runs": [r.name for r in references.runs(group)],
    }


def _records_status(path: Path, shared: SharedStore) -> dict:
    """Freed chips that one run's export has."""
    records = freed_chips.open_records(path, shared.store)
    if records is None:
        unknown = dict.fromkeys(("source", "bands", "run", "folder"))
        return {"path": str(path), "there": False, **unknown, "chips": 0}
    with records:
        head = {"source": records.source, "bands": list(records.bands), "run": records.run, "chips": records.count}
    has_export = not freed_chips.is_export_missing(path, shared.store)
    return {"path": str(path), "there": has_export, "folder": str(records.folder)} | head


def _sum_files(files: FileSizes) -> dict:
    return {"files": len(files), "bytes": sum(files.values())}
