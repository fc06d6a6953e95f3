"""The three kinds of manifests: of a ROI (per_item), of a combined export, and the index of a
per_item export. The last two contain what the run has cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...formats import manifest, record_defaults
from ...formats.manifest import StreamedList, StreamedMapping
from ...models import get_model_info
from ...planning.units import Unit
from ...products import COLLECTION_UNITS
from ...runs.run import Run
from ...store import receipts
from ..shared.jobs import utc_now
from .duplicates import find_equal_arrays, find_repeated_rois
from .survey import KINDS, OF_IMAGE, Imagery, Outcome, Survey, collect_metadata

#: Kinds of arrays with this prefix are tensors of the network, whose name follows; that of the
#: image is ``pixels``.
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


def build_item_manifest(run: Run, index: int, row: dict, created: str) -> dict:
    """The manifest of one ROI (requirements B4)."""
    plan, roi = run.plan, run.roi(index)
    imagery: dict[str, dict] = {}
    entries = [_item_entry(u, row["units"][u.key], imagery, plan.chip_source(u, index)) for u in plan.units]
    keys = [e[k]["npz_key"] for e in entries for k in KINDS if e[k] and not e[k].get("dedup_reused")]
    keys += [t["npz_key"] for e in entries for t in e.get("model_inputs", {}).values()]
    return {
        **manifest.build_header(plan, created),
        "temporal": manifest.window_to_json(roi.temporal),
        "point_index": index,
        "name": plan.names[index],
        "roi": plan.roi_ids[index],
        "status": row["status"],
        "spatial": manifest.spatial_to_json(roi.spatial),
        "imagery": imagery,
        "models": entries,
        "summary": manifest.count_statuses(e["status"] for e in entries),
        **manifest.array_file_entries(plan.item_file(index), keys, plan.item_manifest(index)),
    }


def _item_entry(unit: Unit, record: dict, imagery: dict[str, dict], source: str) -> dict:
    """A model in the manifest of a ROI. Adds its image's metadata to ``imagery`` where no other
    model has added that of the source."""
    info = get_model_info(unit.model)
    chip, embedding, inputs = (record.get(kind, {}) for kind in (*KINDS, "model_inputs"))
    entry = {**manifest.build_model_entry(unit, info, brief=True), "source": source, "status": record["status"]}
    entry |= {"input": None, "embedding": None, "weights": None, "meta": None}
    if "shape" in chip:
        entry["input"] = {
            "npz_key": single_key("input", chip.get("same_as", unit.key)),
            **{k: chip[k] for k in ("dtype", "shape", "sha256")},
            "units": units_of_measure(unit),
            "bands": list(unit.sensor.bands),
            **({"dedup_reused": True} if "same_as" in chip else {}),
        }
    if "shape" in embedding:
        entry["embedding"] = {"npz_key": single_key("embedding", unit.key)}
        entry["embedding"] |= {k: embedding[k] for k in ("dtype", "shape", "sha256")}
    if "tensors" in inputs:
        entry["model_inputs"] = {
            name: {"npz_key": single_key(MODEL_INPUT + name, unit.key), **tensor}
            for name, tensor in inputs["tensors"].items()
        }
    metadata = collect_metadata(record)
    if metadata is not None:
        entry["meta"] = {"model": unit.label, **_item_metadata(metadata, imagery, source)}
        entry["weights"] = embedding.get("meta", {}).get("weights")
    for part in (chip, embedding, inputs):
        if part.get("status") == "failed":
            entry |= {k: part[k] for k in ("error", "stage", "retryable")}
    return entry


def _item_metadata(metadata: dict, imagery: dict[str, dict], source: str) -> dict:
    """Metadata of a model without what ``imagery`` has for its source."""
    own = {k: v for k, v in record_defaults.drop_nulls(metadata).items() if not k.endswith("_sha256")}
    image = {k: own.pop(k) for k in OF_IMAGE if k in own}
    shared = imagery.setdefault(source, image)
    differing = {k: v for k, v in image.items() if shared.get(k) != v}
    return own | differing | {k: None for k in shared if k not in image}


def build_combined_manifest(run: Run, survey: Survey, keys: list[str], created: str) -> dict:
    """The manifest of a combined export (requirements B5)."""
    plan, n = run.plan, len(run.plan.roi_ids)
    stage_sums, model_sums = sum_timings(run)
    models = []
    for unit in plan.units:
        entry, outcome = _model_entry(survey, unit, n, model_sums), survey.outcomes[unit.key]
        more = {"units": units_of_measure(unit), "bands": list(unit.sensor.bands)}
        entry["inputs"] = _array_entry(survey, unit, "input", more)
        entry["embeddings"] = _array_entry(survey, unit, "embedding", {})
        if tensors := survey.tensors(unit.key):
            entry["model_inputs"] = {k.removeprefix(MODEL_INPUT): _array_entry(survey, unit, k, {}) for k in tensors}
        entry["duplicates"] = _duplicate_rows(run, survey, unit)
        entry["meta_default"] = outcome.rows.default()
        entry["metas"] = StreamedList(outcome.rows.differing())
        models.append(entry)
    return {
        **manifest.build_header(plan, created),
        "status": overall_status(run, survey),
        "stage": "done",
        "resume_incomplete": False,
        "completed_at": utc_now(),
        "n_items": n,
        "items": survey.counts.statuses,
        "warnings": survey.counts.warnings(),
        "summary": manifest.count_statuses(m["status"] for m in models),
        "timing": stage_sums,
        "prefetch": {},
        **manifest.array_file_entries(plan.target, StreamedList(keys), plan.manifest),
        **_roi_entries(run),
        "imagery": {source: _imagery_entry(found) for source, found in survey.imagery.items()},
        "models": models,
    }


def _roi_entries(run: Run) -> dict:
    """Names, identities, geometries and windows of the ROIs; windows where some have one of their
    own, null for the others."""
    plan, windows = run.plan, run.request.windows
    return {
        "repeated_rois": StreamedList(find_repeated_rois(plan.roi_ids)),
        "names": StreamedList(plan.names),
        "roi_ids": StreamedList(plan.roi_ids),
        "spatials": StreamedList(manifest.spatial_to_json(run.roi(i).spatial) for i in range(len(plan.roi_ids))),
        **({"windows": StreamedList(map(manifest.window_to_json, windows))} if windows else {}),
    }


def _model_entry(survey: Survey, unit: Unit, n: int, sums: dict[str, dict]) -> dict:
    """A model in the manifest of a run, in either layout: its description and its results."""
    outcome = survey.outcomes[unit.key]
    entry = {**manifest.build_model_entry(unit, get_model_info(unit.model)), "status": model_status(survey, unit)}
    entry["weights"] = outcome.weights
    if sums.get(unit.key):
        entry["timing"] = sums[unit.key]
    return entry | _failure_entries(outcome, n)


def _failure_entries(outcome: Outcome, n: int) -> dict:
    entry: dict = {}
    if outcome.failed:
        entry["error"] = f"{len(outcome.failed)} of {n} ROIs failed; the first: {outcome.first_error}"
        entry["failed_indices"] = StreamedList(outcome.failed)
        entry["errors_by_index"] = StreamedMapping((str(i), error) for i, error, _, _ in outcome.failures)
        failures = ((str(i), {"stage": stage, "retryable": retryable}) for i, _, stage, retryable in outcome.failures)
        entry["failures_by_index"] = StreamedMapping(failures)
    if outcome.no_data:
        entry["no_data_indices"] = StreamedList(outcome.no_data)
    return entry


def _duplicate_rows(run: Run, survey: Survey, unit: Unit) -> dict:
    """Rows of different ROIs with equal arrays, of the kinds that are saved for this model."""
    return {
        name: StreamedList(find_equal_arrays(survey.arrays[unit.key, kind].digests, run.plan.roi_ids))
        for kind, name in zip(KINDS, ("inputs", "embeddings"))
        if survey.arrays[unit.key, kind].own
    }


def _imagery_entry(found: Imagery) -> dict:
    scenes = found.scenes.rows
    return {
        "default": found.rows.default(),
        "scene_default": scenes.default(),
        "scenes": StreamedList(scenes.differing()),
        "rows": StreamedList(found.rows.differing()),
    }


def units_of_measure(unit: Unit) -> str | None:
    """Units (of measure) of the pixels: those of the model's own collection, or known ones of
    another collection."""
    own = get_model_info(unit.model).modalities[unit.modality]
    collection = unit.sensor.collection
    return own.units if collection == own.sensor.collection else COLLECTION_UNITS.get(collection)


def _array_entry(survey: Survey, unit: Unit, kind: str, more: dict) -> dict | None:
    """Names and shapes of a model's arrays in the combined file; None where it has none."""
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
            more = more | {"missing_indices": StreamedList(arrays.missing)}
        return {"npz_key": stacked_key(kind, key), "shape": shape, "dtype": arrays.dtype, **more}
    return {
        "npz_keys": StreamedList(f"{single_key(kind, key)}__{i:05d}" for i in arrays.indices),
        "indices": StreamedList(arrays.indices),
        **more,
    }


def build_index(run: Run, survey: Survey, created: str) -> dict:
    """The index of a per_item export."""
    plan = run.plan
    stage_sums, model_sums = sum_timings(run)
    models = []
    for unit in plan.units:
        entry = _model_entry(survey, unit, len(plan.roi_ids), model_sums)
        tensors = [kind.removeprefix(MODEL_INPUT) for kind in survey.tensors(unit.key)]
        entry |= {"model_inputs": tensors} if tensors else {}
        models.append(entry | {"duplicates": _duplicate_rows(run, survey, unit)})
    return {
        **manifest.build_header(plan, created),
        "status": overall_status(run, survey),
        "n_items": len(plan.roi_ids),
        "items_by_status": survey.counts.statuses,
        "warnings": survey.counts.warnings(),
        "summary": manifest.count_statuses(m["status"] for m in models),
        "timing": stage_sums,
        **{k: v for k, v in _roi_entries(run).items() if k not in ("names", "roi_ids")},
        "models": models,
        "items": StreamedList(_index_entries(plan.names, _read_rows(run))),
    }


def _read_rows(run: Run) -> Iterator[dict]:
    """The rows of the run's write receipts, in ROI order."""
    for chunk in run.plan.chunks:
        yield from receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))["rows"]


def _index_entries(names: Iterable[str], rows: Iterable[dict]) -> Iterator[dict]:
    for name, row in zip(names, rows):
        file, entry = row["files"][0], {k: row[k] for k in ("index", "roi", "status")}
        yield entry | {"name": name, "file": file["path"], "sha256": file["sha256"]}


def model_status(survey: Survey, unit: Unit) -> str:
    """Status of a model over all ROIs."""
    outcome = survey.outcomes[unit.key]
    return manifest.overall_status(outcome.ok + len(outcome.no_data), len(outcome.failed))


def overall_status(run: Run, survey: Survey) -> str:
    """Status of the export: that of its models where they agree, else partial."""
    found = {model_status(survey, u) for u in run.plan.units}
    return found.pop() if len(found) == 1 else "partial"


#: What is summed: seconds, and the jobs' counts.
_SUMS = ("seconds", "cpu_seconds", "load_seconds", "fetched", "restored", "embedded", "reused", "failed")


def sum_timings(run: Run) -> tuple[dict, dict[str, dict]]:
    """The cost of each stage, and of embedding with each model.

    Returns:
        ({stage: sums}, {unit key: sums}). Sums are ``jobs``, ``seconds`` (over jobs, which may
        have run at the same time), ``cpu_seconds``, and the jobs' counts. A job that found
        everything in the store has the time of looking it up.
    """
    plan = run.plan
    keys = plan.receipts()
    of = {u.key: _sum_receipts(keys, (f"embed/{u.id}/{c.name}.json" for c in plan.chunks)) for u in plan.embedded_units}
    stages = {
        "fetch": _sum_receipts(keys, (k for k in keys if k.startswith("fetch/"))),
        "embed": _add_up(of.values()),
        "write": _sum_receipts(keys, plan.items_receipts()),
    }
    return {k: v for k, v in stages.items() if v}, of


def _sum_receipts(keys: dict[str, str], paths: Iterable[str]) -> dict:
    found = (receipts.read_state(path, keys[path])[1] for path in paths)
    return _add_up({"jobs": 1, **r} for r in found if r is not None)


def _add_up(parts: Iterable[dict]) -> dict:
    out: dict[str, float] = {}
    for part in parts:
        for key in ("jobs", *_SUMS):
            if key in part:
                out[key] = round(out.get(key, 0) + part[key], 3)
    return out
