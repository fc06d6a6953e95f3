"""The three manifests: of a ROI (per_item), of a combined export, and the index of a per_item export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import receipts
from ..description import UNITS
from ..formats import manifest, module
from ..models import describe
from ..run import Run
from ..units import Unit
from .common import now
from .survey import Survey


def single_key(kind: str, key: str) -> str:
    """Name of one ROI's array; the combined file appends the index."""
    return f"{'input_chw' if kind == 'input' else 'embedding'}__{key}"


def stacked_key(kind: str, key: str) -> str:
    """Name of the array of all ROIs."""
    return f"{'inputs_bchw' if kind == 'input' else 'embeddings'}__{key}"


def item(run: Run, index: int, row: dict, created: str) -> dict:
    """The manifest of one ROI (requirements B4)."""
    plan, roi = run.plan, run.roi(index)
    entries = [_item_entry(unit, row["units"][unit.key]) for unit in plan.units]
    return {
        **manifest.header(plan, created),
        "temporal": manifest.window(roi.temporal),
        "point_index": index,
        "name": plan.names[index],
        "roi": plan.roi_ids[index],
        "status": row["status"],
        "spatial": manifest.spatial(roi.spatial),
        "models": entries,
        "summary": manifest.summary(e["status"] for e in entries),
        **_file(
            run,
            plan.item_file(index),
            [e[k]["npz_key"] for e in entries for k in ("input", "embedding") if e[k] and not e[k].get("dedup_reused")],
        ),
        "manifest_path": Path(plan.item_manifest(index)).name,
    }


def _file(run: Run, path: str, keys: list[str]) -> dict:
    """The array file and its arrays, under the names that readers look for in its format. (Entries of models say ``npz_key`` in
    every format: so the published reader has it.)"""
    words = module(run.request.config.format)
    return {words.PATH: Path(path).name, words.KEYS: keys}


def _item_entry(unit: Unit, record: dict) -> dict:
    info = describe(unit.model)
    entry = {**manifest.model_entry(unit, info, brief=True), "status": record["status"]}
    entry |= {"input": None, "embedding": None, "meta": None}
    taken, made = record.get("input", {}), record.get("embedding", {})
    if "shape" in taken:
        entry["input"] = {
            "npz_key": single_key("input", taken.get("same_as", unit.key)),
            **{k: taken[k] for k in ("dtype", "shape", "sha256", "crs", "affine", "dates", "roi") if k in taken},
            "units": units_of(unit),
            "bands": list(unit.sensor.bands),
            **({"dedup_reused": True} if "same_as" in taken else {}),
        }
        entry["fetch_meta"] = {"fetched": taken["fetched"], "provenance": taken["provenance"]}
    if "shape" in made:
        entry["embedding"] = {"npz_key": single_key("embedding", unit.key)}
        entry["embedding"] |= {k: made[k] for k in ("dtype", "shape", "sha256")}
    if "meta" in made:
        entry["meta"] = {"model": unit.label, **made["meta"]}
    for part in (taken, made):
        if part.get("status") == "failed":
            entry |= {k: part[k] for k in ("error", "stage", "retryable")}
    return entry


def combined(run: Run, survey: Survey, keys: list[str], created: str) -> dict:
    """The manifest of a combined export (requirements B5)."""
    plan, n = run.plan, len(run.plan.roi_ids)
    models = []
    for unit in plan.units:
        info, outcome = describe(unit.model), survey.outcomes[unit.key]
        entry = {**manifest.model_entry(unit, info), "status": model_status(survey, unit)}
        more = {"units": units_of(unit), "bands": list(unit.sensor.bands)}
        entry["inputs"] = _arrays(run, survey, unit, "input", more)
        entry["embeddings"] = _arrays(run, survey, unit, "embedding", {})
        entry["weights"] = outcome.weights
        if outcome.errors:
            first = next(iter(outcome.errors.values()))
            entry["failed_indices"] = list(outcome.errors)
            entry["errors_by_index"] = {str(i): error for i, error in outcome.errors.items()}
            entry["error"] = f"{len(outcome.errors)} of {n} ROIs failed; the first: {first}"
        if outcome.no_data:
            entry["no_data_indices"] = outcome.no_data
        entry["metas"] = manifest.Stream(outcome.records())
        models.append(entry)
    return {
        **manifest.header(plan, created),
        "status": overall_status(run, survey),
        "stage": "done",
        "resume_incomplete": False,
        "completed_at": now(),
        "n_items": n,
        "items": survey.statuses,
        "summary": manifest.summary(m["status"] for m in models),
        **_file(run, plan.target, keys),
        "manifest_path": Path(plan.manifest).name,
        "names": manifest.Stream(plan.names),
        "roi_ids": manifest.Stream(plan.roi_ids),
        "spatials": manifest.Stream(manifest.spatial(run.roi(i).spatial) for i in range(n)),
        **_windows(run),
        "models": models,
    }


def _windows(run: Run) -> dict:
    """The windows of ROIs that have one of their own, null for the others; nothing where none has."""
    windows = run.request.windows
    return {"windows": manifest.Stream(map(manifest.window, windows))} if windows else {}


def units_of(unit: Unit) -> str | None:
    """Units of the pixels: those of the model's own collection, or what is known of another one."""
    own = describe(unit.model).modalities[unit.modality]
    return own.units if unit.sensor.collection == own.sensor.collection else UNITS.get(unit.sensor.collection)


def _arrays(run: Run, survey: Survey, unit: Unit, kind: str, more: dict) -> dict | None:
    """Where a model's arrays are in the combined file, or None."""
    arrays = survey.arrays[unit.key, kind]
    if not any(arrays.have):
        return None
    key = unit.key
    if not arrays.own:
        key = next(k for k in arrays.same_as if k is not None)
        more = more | {"dedup_reused": True}
    if arrays.stackable:
        shape = [len(arrays.have), *next(iter(arrays.shapes))]
        return {"npz_key": stacked_key(kind, key), "shape": shape, "dtype": arrays.dtype, **more}
    return {
        "npz_keys": [f"{single_key(kind, key)}__{i:05d}" for i in arrays.indices],
        "indices": arrays.indices,
        **more,
    }


def index(run: Run, survey: Survey, created: str) -> dict:
    """The index of a per_item export."""
    plan = run.plan
    models = [
        {**manifest.model_entry(u, describe(u.model)), "key": u.key, "status": model_status(survey, u)}
        for u in plan.units
    ]
    return {
        **manifest.header(plan, created),
        "status": overall_status(run, survey),
        "n_items": len(plan.roi_ids),
        "items_by_status": survey.statuses,
        "summary": manifest.summary(m["status"] for m in models),
        "models": models,
        **_windows(run),
        "items": manifest.Stream(_index_entry(plan.names[r["index"]], r) for r in _rows(run)),
    }


def _rows(run: Run) -> Iterator[dict]:
    """The rows of the run's write receipts, in ROI order."""
    for chunk in run.plan.chunks:
        yield from receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))["rows"]


def _index_entry(name: str, row: dict) -> dict:
    file = row["files"][0]
    return {
        **{k: row[k] for k in ("index", "roi", "status")},
        "name": name,
        "file": file["path"],
        "sha256": file["sha256"],
    }


def model_status(survey: Survey, unit: Unit) -> str:
    """Status of a model over all ROIs."""
    outcome = survey.outcomes[unit.key]
    return manifest.status_of(outcome.ok + len(outcome.no_data), len(outcome.errors))


def overall_status(run: Run, survey: Survey) -> str:
    """Status of the export: that of its models where they agree, else partial."""
    found = {model_status(survey, u) for u in run.plan.units}
    return found.pop() if len(found) == 1 else "partial"
