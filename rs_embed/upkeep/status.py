"""What is in a work folder, quickly: receipts are read once, files are looked at and not read."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import StoreError
from ..formats import manifest
from ..stages.repair import expected_files
from ..store import freed_chips, receipts
from . import prune
from .contents import Contents, Files, Group, survey, walk
from .freeable import freed
from .references import References
from .work_folder import RunFolder, Shared, Work

STAGES = {"fetch": "parts", "embed": "chunks", "items": "chunks"}


def status(work: Work) -> dict:
    """Everything that ``rs-embed status`` says, as JSON values."""
    found = {shared.store.root: survey(shared.store) for shared in work.stores}
    waste = prune.find(work, found)
    rest = [stat.st_size for path, stat in walk(work.folder) if not any(path.is_relative_to(root) for root in found)]
    return {
        "work": str(work.folder),
        "runs": [run_status(r) for r in work.runs],
        "stores": [_store(shared, found[shared.store.root]) for shared in work.stores],
        "generations": {
            "files": len(list((work.folder / "generations").glob("*.json"))),
            "of_runs_that_are_gone": [p.stem for p in work.orphaned_generations],
        },
        "leftovers_of_runs": _sum(waste.in_runs),
        "prune": {"files": waste.files, "bytes": waste.bytes, "refused": prune.refusal(work)},
        "total": {
            "files": len(rest) + sum(c.files for c in found.values()),
            "bytes": sum(rest) + sum(c.bytes for c in found.values()),
        },
    }


def run_status(entry: RunFolder) -> dict:
    """One run: how far it is, whether somebody works on it, whether its files are there."""
    said = {"name": entry.name, "folder": str(entry.folder), "running": entry.running, "error": entry.error}
    if entry.run is None:
        return said | {"state": "unreadable" if entry.error else "running" if entry.running is not None else "empty"}
    plan, counts = entry.run.plan, _Counts(entry)
    state = "complete" if counts.complete else "incomplete"
    if state == "complete" and (counts.gone or counts.changed):
        state = "files gone" if counts.gone == counts.recorded else "files changed"
    return said | {
        "state": "running" if entry.running is not None else state,
        "target": entry.target,
        "layout": plan.layout,
        "rois": len(plan.roi_ids),
        "models": [u.label for u in plan.units],
        "store": str(entry.store),
        "freed": sorted(freed(entry.folder)),
        "stages": counts.stages,
        "failed_rois": counts.failed_rois,
        "unreadable_receipts": counts.unreadable,
        "files": {k: getattr(counts, k) for k in ("recorded", "gone", "changed", "touched")},
        "finished": counts.finished,
    }


class _Counts:
    """One pass over the receipts of a run."""

    def __init__(self, entry: RunFolder) -> None:
        self.run, plan = entry.run, entry.run.plan
        self.stages = {s: {"done": 0, "of": 0, "failed": 0, "unit": unit} for s, unit in STAGES.items()}
        self.stages["merge"] = {"done": 0, "of": 1, "failed": 0, "unit": "run"}
        self.failed_rois = self.unreadable = self.recorded = self.gone = self.changed = self.touched = 0
        self.finished: str | None = None
        for path, key in (plan.receipts() | {plan.merge_receipt: plan.merge_key}).items():
            stage = path.split("/")[0].removesuffix(".json")
            self.stages[stage]["of"] += stage != "merge"
            receipt = self._read(path, key)
            if receipt is not None:
                self._count(stage, path, receipt)
        self.complete = all(s["done"] == s["of"] for s in self.stages.values())

    def _read(self, path: str, key: str) -> dict | None:
        try:
            receipt = receipts.read(self.run.dir / path)
        except FileNotFoundError:
            return None
        except StoreError:
            self.unreadable += 1
            return None
        if "records" in receipt and self._size(receipt["records"]) != receipt["records"]["size"]:
            self.unreadable += 1
            return None
        return receipt if receipt.get("key") == key else None

    def _size(self, record: dict) -> int | None:
        try:
            return os.stat(self.run.dir / record["path"]).st_size
        except OSError:
            return None

    def _count(self, stage: str, path: str, receipt: dict) -> None:
        failed = sum(row.get("status") in ("failed", "partial") for row in receipt["rows"])
        self.stages[stage]["done"] += 1
        self.stages[stage]["failed"] += failed
        self.finished = max(self.finished or "", receipt.get("finished", "")) or None
        if stage == "items":
            self.failed_rois += failed
            target = os.path.normpath(self.run.dir / self.run.plan.target)
            for _, record in expected_files(self.run, Path(path).stem, receipt).values():
                self._look(os.path.join(target, record["path"]), record)
        elif stage == "merge":
            for record in receipt["rows"]:
                self._look(os.path.join(self.run.dir, record["path"]), record)

    def _look(self, path: str, record: dict) -> None:
        self.recorded += 1
        try:
            stat = os.stat(path)
        except OSError:
            self.gone += 1
            return
        other_size, plan = stat.st_size != record["size"], self.run.plan
        if other_size and plan.layout == "combined" and manifest.of_another(path, plan.target):
            return  # of the other file format, not damaged
        self.changed += other_size
        self.touched += stat.st_size == record["size"] and stat.st_mtime_ns != record["mtime_ns"]


def _store(shared: Shared, found: Contents) -> dict:
    references = References(shared.runs)
    bands = {s.id: s for r in shared.runs for s in r.run.plan.sources}
    return {
        "path": str(shared.store.root),
        "files": found.files,
        "bytes": found.bytes,
        "works": [{"path": str(w), "gone": False} for w in shared.works]
        + [{"path": str(w), "gone": True} for w in shared.gone.values()],
        "unreadable_registrations": list(map(str, shared.unreadable)),
        "groups": [
            _group(g, references) | ({"collection": bands[g.id].identity.get("collection")} if g.id in bands else {})
            for g in sorted(found.groups, key=lambda g: (g.kind, g.id, g.folder.name))
        ],
        "kept": [_records(path, shared) for path in freed_chips.of_store(shared.store)],
        "damaged": _sum(found.damaged),
        "leftovers": _sum(found.leftovers),
    }


def _group(group: Group, references: References) -> dict:
    return {
        "kind": group.kind,
        "id": group.id,
        "bands": list(group.bands) if group.bands else None,
        "files": len(group.objects) - len(group.packed) + len(group.packs),
        "bytes": sum(group.objects.values()) + group.more,
        "objects": len(group.objects),
        "packs": len(group.packs),
        "unreferenced": _objects(group, references.unreferenced(group)),
        "runs": [r.name for r in references.runs(group)],
    }


def _objects(group: Group, names: dict[str, int]) -> dict:
    return {"files": group.files(names), "bytes": sum(names.values())}


def _records(path: Path, shared: Shared) -> dict:
    """Freed chips that one run's export has."""
    records = freed_chips.opened(path, shared.store)
    if records is None:
        return {
            "path": str(path),
            "there": False,
            "source": None,
            "bands": None,
            "run": None,
            "folder": None,
            "chips": 0,
        }
    with records:
        said = {"source": records.source, "bands": list(records.bands), "run": records.run, "chips": records.count}
    return {"path": str(path), "there": not freed_chips.gone(path, shared.store), "folder": str(records.folder)} | said


def _sum(files: Files | dict[str, int]) -> dict:
    return {"files": len(files), "bytes": sum(files.values())}
