"""Merge a run: combined streams every array into one file and writes the manifest; per_item writes the index.

Memory does not grow with the number of ROIs: receipts are read a chunk at a time, arrays a ROI at a time, and the
manifest is written while it is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import receipts, store
from ..formats import manifest
from ..formats.npz import NpzWriter
from ..models import describe
from ..plan import Chunk
from ..run import Run
from ..units import Unit
from .common import now, read_checked, read_chip, spent

if TYPE_CHECKING:
    import numpy as np

#: Failed or empty ROIs listed by index in a model's entry; beyond that the count and the rows themselves say it.
_LISTED = 10_000


@dataclass
class Survey:
    """What one kind of array (inputs or embeddings of a unit) looks like over the whole run."""

    shapes: set[tuple] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    ok: int = 0
    failed: int = 0
    failed_indices: list[int] = field(default_factory=list)
    no_data: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    same_as: set[str | None] = field(default_factory=set)

    def see(self, index: int, record: dict) -> None:
        if record["status"] == "failed":
            self.failed += 1
            if len(self.failed_indices) < _LISTED:
                self.failed_indices.append(index)
                self.errors[index] = record["error"]
        elif "shape" in record:
            self.ok += 1
            self.shapes.add(tuple(record["shape"]))
            self.dtypes.add(record["dtype"])
            self.same_as.add(record.get("same_as"))
        else:
            self.no_data.append(index)

    def stackable(self, n: int) -> bool:
        """Every ROI has an array, and all are of one shape and dtype."""
        return self.ok == n and len(self.shapes) == 1 and len(self.dtypes) == 1


def merge(run: Run) -> dict:
    """Make the final files and ``merge.json``; returns counts.

    Raises:
        StoreError: an object is damaged; running again makes it anew.
    """
    started, plan = time.monotonic(), run.plan
    surveys = {(u.key, kind): Survey() for u in plan.units for kind in ("input", "embedding")}
    statuses: dict[str, int] = {}
    created = None
    for row in _rows(run):
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
        for key, unit in row["units"].items():
            for kind in ("input", "embedding"):
                if kind in unit:
                    surveys[key, kind].see(row["index"], unit[kind])
    created = now()
    files = []
    if plan.layout == "combined":
        keys = _arrays(run, surveys)
        files.append(manifest.file_record(plan.target))
        manifest.write(plan.manifest, _combined(run, surveys, statuses, keys, created))
    else:
        manifest.write(plan.manifest, _index(run, surveys, statuses, created))
    files.append(manifest.file_record(plan.manifest))
    _clean(run)
    receipts.write(
        "merge.json",
        "merge",
        plan.merge_key,
        files,
        **spent(started),
    )
    return {"rois": len(plan.roi_ids), **statuses}


def _receipts(run: Run) -> Iterator[tuple[Chunk, dict]]:
    for chunk in run.plan.chunks:
        yield chunk, receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))


def _rows(run: Run) -> Iterator[dict]:
    for _, receipt in _receipts(run):
        yield from receipt["rows"]


# arrays of the combined file ---------------------------------------------------------------------------------------


def _arrays(run: Run, surveys: dict[tuple[str, str], Survey]) -> list[str]:
    """Write the combined array file; returns its keys."""
    import numpy as np

    n = len(run.plan.roi_ids)
    with NpzWriter(run.plan.target) as npz:
        for unit in run.plan.units:
            for kind, stacked, deflate in (("input", "inputs_bchw", True), ("embedding", "embeddings", False)):
                survey = surveys[unit.key, kind]
                if not survey.ok or (kind == "input" and None not in survey.same_as):
                    continue
                if survey.stackable(n):
                    shape, dtype = next(iter(survey.shapes)), np.dtype(next(iter(survey.dtypes)))
                    arrays = (array for _, array in _of(run, unit, kind))
                    npz.add(f"{stacked}__{unit.key}", (n, *shape), dtype, arrays, deflate=deflate)
                else:
                    for index, array in _of(run, unit, kind):
                        npz.add(
                            f"{single_key(kind, unit)}__{index:05d}", array.shape, array.dtype, [array], deflate=deflate
                        )
    return npz.keys


def single_key(kind: str, unit: Unit) -> str:
    """Name of one ROI's array, without the index that the combined file appends."""
    return f"{'input_chw' if kind == 'input' else 'embedding'}__{unit.key}"


def _of(run: Run, unit: Unit, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """(ROI index, array) of every ROI that has one, in ROI order."""
    for chunk, receipt in _receipts(run):
        vouched = [f"items/{chunk.name}.json"]
        for row in receipt["rows"]:
            record = row["units"][unit.key][kind]
            if "shape" not in record:
                continue
            if kind == "embedding":
                vouching = [*vouched, f"embed/{unit.id}/{chunk.name}.json"]
                yield row["index"], read_checked(run.store.embedding(unit.id, row["roi"]), vouching).array
            else:
                vouching = [*vouched, *run.plan.fetch_receipts(chunk, [unit.source])]
                yield row["index"], read_chip(run, unit.source, unit.sensor.bands, row["roi"], vouching)[0]


# manifests ---------------------------------------------------------------------------------------------------------


def _model_status(run: Run, unit: Unit, surveys: dict) -> str:
    survey = surveys[unit.key, "embedding" if run.request.config.save_embeddings else "input"]
    return manifest.status_of(survey.ok + len(survey.no_data), survey.failed)


def _overall(run: Run, surveys: dict, statuses: dict[str, int]) -> str:
    found = {_model_status(run, u, surveys) for u in run.plan.units}
    return found.pop() if len(found) == 1 else "partial"


def _combined(run: Run, surveys: dict, statuses: dict[str, int], keys: list[str], created: str) -> dict:
    """The manifest of a combined export (requirements B5)."""
    plan = run.plan
    models = []
    for unit in plan.units:
        info = describe(unit.model)
        embedding = surveys[unit.key, "embedding"]
        entry = {**manifest.model_entry(unit, info), "status": _model_status(run, unit, surveys)}
        entry["inputs"] = _array_entry(run, unit, "input", surveys, info.modalities[unit.modality].units)
        entry["embeddings"] = _array_entry(run, unit, "embedding", surveys, None)
        weights = next(
            (r["units"][unit.key]["embedding"]["meta"]["weights"] for r in _rows(run) if "weights" in _meta(r, unit)),
            None,
        )
        entry["weights"] = weights
        main = embedding if plan.request.config.save_embeddings else surveys[unit.key, "input"]
        if main.failed:
            entry |= {
                "failed_indices": main.failed_indices,
                "errors_by_index": {str(k): v for k, v in main.errors.items()},
            }
            entry["error"] = (
                f"{main.failed} of {len(plan.roi_ids)} ROIs failed; the first: {next(iter(main.errors.values()))}"
            )
        if main.no_data:
            entry["no_data_indices"] = main.no_data
        entry["metas"] = manifest.Stream(_metas(run, unit))
        models.append(entry)
    return {
        **manifest.header(plan, created),
        "status": _overall(run, surveys, statuses),
        "stage": "done",
        "resume_incomplete": False,
        "completed_at": now(),
        "n_items": len(plan.roi_ids),
        "items": statuses,
        "summary": manifest.summary(m["status"] for m in models),
        "npz_path": Path(plan.target).name,
        "npz_keys": keys if len(keys) <= _LISTED else [],
        "manifest_path": Path(plan.manifest).name,
        "names": manifest.Stream(plan.names),
        "roi_ids": manifest.Stream(plan.roi_ids),
        "spatials": manifest.Stream(manifest.spatial(run.roi(i).spatial) for i in range(len(plan.roi_ids))),
        "models": models,
    }


def _meta(row: dict, unit: Unit) -> dict:
    return row["units"][unit.key].get("embedding", {}).get("meta", {})


def _metas(run: Run, unit: Unit) -> Iterator[dict | None]:
    """One small record per ROI: the embedding's metadata (without the weights, which are said once) and its digests."""
    for row in _rows(run):
        record = row["units"][unit.key]
        made, taken = record.get("embedding", {}), record.get("input", {})
        if record["status"] == "failed":
            yield None
            continue
        meta = {
            "status": record["status"],
            **{
                k: v
                for k, v in made.get("meta", taken).items()
                if k not in ("weights", "status", "same_as", "sha256", "dtype")
            },
        }
        digests = {
            k: part["sha256"] for k, part in (("embedding_sha256", made), ("input_sha256", taken)) if "sha256" in part
        }
        yield meta | digests


def _array_entry(run: Run, unit: Unit, kind: str, surveys: dict, units: str | None) -> dict | None:
    """Where a model's arrays are in the combined file, or None."""
    survey = surveys[unit.key, kind]
    if not survey.ok:
        return None
    owner = unit
    more: dict = {}
    if kind == "input":
        more = {"units": units, "bands": list(unit.sensor.bands)}
        if None not in survey.same_as:
            owner = next(u for u in run.plan.units if u.key in survey.same_as)
            more["dedup_reused"] = True
    n = len(run.plan.roi_ids)
    if survey.stackable(n):
        key = f"{'inputs_bchw' if kind == 'input' else 'embeddings'}__{owner.key}"
        return {"npz_key": key, "shape": [n, *next(iter(survey.shapes))], "dtype": next(iter(survey.dtypes)), **more}
    indices = [r["index"] for r in _rows(run) if "shape" in r["units"][unit.key][kind]]
    return {"npz_keys": [f"{single_key(kind, owner)}__{i:05d}" for i in indices], "indices": indices, **more}


def _index(run: Run, surveys: dict, statuses: dict[str, int], created: str) -> dict:
    """The index of a per_item export."""
    plan = run.plan
    models = [
        {"model": u.label, "id": u.model, "unit": u.id, "key": u.key, "status": _model_status(run, u, surveys)}
        for u in plan.units
    ]
    return {
        **manifest.header(plan, created),
        "status": _overall(run, surveys, statuses),
        "n_items": len(plan.roi_ids),
        "items_by_status": statuses,
        "summary": manifest.summary(m["status"] for m in models),
        "models": models,
        "items": manifest.Stream(
            {
                "index": r["index"],
                "name": plan.names[r["index"]],
                "roi": r["roi"],
                "status": r["status"],
                "file": r["files"][0]["path"],
                "sha256": r["files"][0]["sha256"],
            }
            for r in _rows(run)
        ),
    }


def _clean(run: Run) -> None:
    """Remove temporary files that killed jobs of this machine left; one pass, after everything else has succeeded."""
    run.store.clean()
    target = Path(run.plan.target)
    folders = [target.parent, run.dir]
    if run.plan.layout == "per_item":
        folders.append(target)
    for name in ("fetch", "embed", "items", "repairs", "manifests"):
        folders += [run.dir / name, *(run.dir / name).glob("*/")]
    for folder in folders:
        if folder.is_dir():
            store.clean(folder)
