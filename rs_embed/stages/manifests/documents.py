"""The three manifests: of a ROI (per_item), of a combined export, and the index of a per_item export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...formats import manifest, record_defaults
from ...formats.manifest import Pairs, Stream
from ...models import describe
from ...planning.model_info import UNITS
from ...planning.units import Unit
from ...runs.run import Run
from ...store import receipts
from ..shared.common import now
from .duplicates import equal_arrays, repeated
from .survey import KINDS, OF_IMAGE, Imagery, Outcome, Survey, said_of
from .timing import timing

#: Kinds of arrays that begin with this are tensors of the network, called after it; the one of the image is ``pixels``.
MODEL_INPUT = "model_input:"


def single_key(kind: str, key: str) -> str:
    """Name of one ROI's array; the combined file appends the index."""
    return _tensor_key(kind, key) or f"{'input_chw' if kind == 'input' else 'embedding'}__{key}"


def stacked_key(kind: str, key: str) -> str:
    """Name of the array of all ROIs."""
    return _tensor_key(kind, key) or f"{'inputs_bchw' if kind == 'input' else 'embeddings'}__{key}"


def _tensor_key(kind: str, key: str) -> str | None:
    if not kind.startswith(MODEL_INPUT):
        return None
    name = kind.removeprefix(MODEL_INPUT)
    return f"model_input__{key}" + ("" if name == "pixels" else f"__{name}")


def item(run: Run, index: int, row: dict, created: str) -> dict:
    """The manifest of one ROI (requirements B4)."""
    plan, roi = run.plan, run.roi(index)
    imagery: dict[str, dict] = {}
    entries = [_item_entry(unit, row["units"][unit.key], imagery) for unit in plan.units]
    keys = [e[k]["npz_key"] for e in entries for k in KINDS if e[k] and not e[k].get("dedup_reused")]
    keys += [t["npz_key"] for e in entries for t in e.get("model_inputs", {}).values()]
    return {
        **manifest.header(plan, created),
        "temporal": manifest.window(roi.temporal),
        "point_index": index,
        "name": plan.names[index],
        "roi": plan.roi_ids[index],
        "status": row["status"],
        "spatial": manifest.spatial(roi.spatial),
        "imagery": imagery,
        "models": entries,
        "summary": manifest.summary(e["status"] for e in entries),
        **manifest.array_files(plan.item_file(index), keys, plan.item_manifest(index)),
    }


def _item_entry(unit: Unit, record: dict, imagery: dict[str, dict]) -> dict:
    """A model in the manifest of a ROI; what it says of its image goes into ``imagery``, where another model has not said the same."""
    info = describe(unit.model)
    entry = {**manifest.model_entry(unit, info, brief=True), "status": record["status"]}
    entry |= {"input": None, "embedding": None, "weights": None, "meta": None}
    taken, made = record.get("input", {}), record.get("embedding", {})
    if "shape" in taken:
        entry["input"] = {
            "npz_key": single_key("input", taken.get("same_as", unit.key)),
            **{k: taken[k] for k in ("dtype", "shape", "sha256")},
            "units": units_of(unit),
            "bands": list(unit.sensor.bands),
            **({"dedup_reused": True} if "same_as" in taken else {}),
        }
    if "shape" in made:
        entry["embedding"] = {"npz_key": single_key("embedding", unit.key)}
        entry["embedding"] |= {k: made[k] for k in ("dtype", "shape", "sha256")}
    if "tensors" in record.get("model_inputs", {}):
        entry["model_inputs"] = {
            name: {"npz_key": single_key(MODEL_INPUT + name, unit.key), **held}
            for name, held in record["model_inputs"]["tensors"].items()
        }
    said = said_of(record)
    if said is not None:
        said = {k: v for k, v in record_defaults.clean(said).items() if not k.endswith("_sha256")}
        image = {k: said.pop(k) for k in OF_IMAGE if k in said}
        shared = imagery.setdefault(unit.source, image)
        own = {k: v for k, v in image.items() if shared.get(k) != v} | {k: None for k in shared if k not in image}
        entry["meta"] = {"model": unit.label, **said, **own}
        entry["weights"] = made.get("meta", {}).get("weights")
    for part in (taken, made, record.get("model_inputs", {})):
        if part.get("status") == "failed":
            entry |= {k: part[k] for k in ("error", "stage", "retryable")}
    return entry


def combined(run: Run, survey: Survey, keys: list[str], created: str) -> dict:
    """The manifest of a combined export (requirements B5)."""
    plan, n = run.plan, len(run.plan.roi_ids)
    took, of_models = timing(run)
    models = []
    for unit in plan.units:
        entry, outcome = _model(survey, unit, n, of_models), survey.outcomes[unit.key]
        more = {"units": units_of(unit), "bands": list(unit.sensor.bands)}
        entry["inputs"] = _arrays(survey, unit, "input", more)
        entry["embeddings"] = _arrays(survey, unit, "embedding", {})
        tensors = survey.tensors(unit.key)
        if tensors:
            entry["model_inputs"] = {k.removeprefix(MODEL_INPUT): _arrays(survey, unit, k, {}) for k in tensors}
        entry["duplicates"] = _duplicates(run, survey, unit)
        entry["meta_default"] = outcome.rows.default()
        entry["metas"] = Stream(outcome.rows.differing())
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
        "timing": took,
        "prefetch": {},
        **manifest.array_files(plan.target, Stream(keys), plan.manifest),
        **_places(run),
        "imagery": {source: _imagery(found) for source, found in survey.imagery.items()},
        "models": models,
    }


def _places(run: Run) -> dict:
    """Names, identities, geometries and windows of the ROIs; windows where some have one of their own, null for the others."""
    plan, windows = run.plan, run.request.windows
    return {
        "repeated_rois": Stream(repeated(plan.roi_ids)),
        "names": Stream(plan.names),
        "roi_ids": Stream(plan.roi_ids),
        "spatials": Stream(manifest.spatial(run.roi(i).spatial) for i in range(len(plan.roi_ids))),
        **({"windows": Stream(map(manifest.window, windows))} if windows else {}),
    }


def _model(survey: Survey, unit: Unit, n: int, took: dict[str, dict]) -> dict:
    """What the manifest of a run says of a model in either layout: what it is, and what became of it."""
    outcome = survey.outcomes[unit.key]
    entry = {**manifest.model_entry(unit, describe(unit.model)), "status": model_status(survey, unit)}
    entry["weights"] = outcome.weights
    if took.get(unit.key):
        entry["timing"] = took[unit.key]
    return entry | _failures(outcome, n)


def _failures(outcome: Outcome, n: int) -> dict:
    entry: dict = {}
    if outcome.failed:
        entry["error"] = f"{len(outcome.failed)} of {n} ROIs failed; the first: {outcome.first_error}"
        entry["failed_indices"] = Stream(outcome.failed)
        entry["errors_by_index"] = Pairs((str(i), error) for i, error, _, _ in outcome.failures)
        entry["failures_by_index"] = Pairs(
            (str(i), {"stage": stage, "retryable": retryable}) for i, _, stage, retryable in outcome.failures
        )
    if outcome.no_data:
        entry["no_data_indices"] = Stream(outcome.no_data)
    return entry


def _duplicates(run: Run, survey: Survey, unit: Unit) -> dict:
    """Rows of different ROIs with equal arrays, of the kinds that are this model's own."""
    return {
        name: Stream(equal_arrays(survey.arrays[unit.key, kind].digests, run.plan.roi_ids))
        for kind, name in zip(KINDS, ("inputs", "embeddings"))
        if survey.arrays[unit.key, kind].own
    }


def _imagery(found: Imagery) -> dict:
    scenes = found.scenes.rows
    return {
        "default": found.rows.default(),
        "scene_default": scenes.default(),
        "scenes": Stream(scenes.differing()),
        "rows": Stream(found.rows.differing()),
    }


def units_of(unit: Unit) -> str | None:
    """Units of the pixels: those of the model's own collection, or what is known of another one."""
    own = describe(unit.model).modalities[unit.modality]
    return own.units if unit.sensor.collection == own.sensor.collection else UNITS.get(unit.sensor.collection)


def _arrays(survey: Survey, unit: Unit, kind: str, more: dict) -> dict | None:
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
        if not all(arrays.have):
            more = more | {"missing_indices": Stream(arrays.missing)}
        return {"npz_key": stacked_key(kind, key), "shape": shape, "dtype": arrays.dtype, **more}
    return {
        "npz_keys": Stream(f"{single_key(kind, key)}__{i:05d}" for i in arrays.indices),
        "indices": Stream(arrays.indices),
        **more,
    }


def index(run: Run, survey: Survey, created: str) -> dict:
    """The index of a per_item export."""
    plan = run.plan
    took, of_models = timing(run)
    models = []
    for unit in plan.units:
        entry = _model(survey, unit, len(plan.roi_ids), of_models)
        tensors = [kind.removeprefix(MODEL_INPUT) for kind in survey.tensors(unit.key)]
        entry |= {"model_inputs": tensors} if tensors else {}
        models.append(entry | {"duplicates": _duplicates(run, survey, unit)})
    return {
        **manifest.header(plan, created),
        "status": overall_status(run, survey),
        "n_items": len(plan.roi_ids),
        "items_by_status": survey.statuses,
        "summary": manifest.summary(m["status"] for m in models),
        "timing": took,
        **{k: v for k, v in _places(run).items() if k not in ("names", "roi_ids")},
        "models": models,
        "items": Stream(_index_entries(plan.names, _rows(run))),
    }


def _rows(run: Run) -> Iterator[dict]:
    """The rows of the run's write receipts, in ROI order."""
    for chunk in run.plan.chunks:
        yield from receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))["rows"]


def _index_entries(names: Iterable[str], rows: Iterable[dict]) -> Iterator[dict]:
    for name, row in zip(names, rows):
        file = row["files"][0]
        yield {
            **{k: row[k] for k in ("index", "roi", "status")},
            "name": name,
            "file": file["path"],
            "sha256": file["sha256"],
        }


def model_status(survey: Survey, unit: Unit) -> str:
    """Status of a model over all ROIs."""
    outcome = survey.outcomes[unit.key]
    return manifest.status_of(outcome.ok + len(outcome.no_data), len(outcome.failed))


def overall_status(run: Run, survey: Survey) -> str:
    """Status of the export: that of its models where they agree, else partial."""
    found = {model_status(survey, u) for u in run.plan.units}
    return found.pop() if len(found) == 1 else "partial"
