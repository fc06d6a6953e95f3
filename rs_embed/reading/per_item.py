"""Open a per_item export: a folder with an array file and a manifest for each ROI."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..formats import open_arrays, record_defaults
from ..formats.manifest import overall_status
from ..planning.units import array_key
from ..request.config import SUFFIX
from . import manifest_lines
from .columns import Column, FilePerRoi
from .manifest_records import Records
from .model_result import MODEL_INPUT_PREFIX, Failure, ModelResult
from .result import ExportResult, parse_window

#: Key of an array in the manifest of a ROI, and prefix of its usual name, by kind.
_ENTRY_KEY = {"embeddings": "embedding", "inputs": "input"}
_PREFIX = {"embeddings": "embedding__", "inputs": "input_chw__"}


def open_folder(folder: Path, n_items: int | None) -> ExportResult:
    """Open a folder; see :func:`rs_embed.load_export`."""
    index = folder / "manifest.json"
    if index.exists():
        manifest = manifest_lines.read_manifest(index)
        if isinstance(manifest.get("items"), (list, manifest_lines.LineList)):
            return _open_with_index(folder, index, manifest, n_items)
    return _open_without_index(folder, n_items)


# manifests of ROIs -------------------------------------------------------------------------------


def _read_sidecar(path: Path | None) -> dict[str, Any]:
    """The manifest beside an array file; empty without one."""
    if path is None:
        return {}
    sidecar = path.with_suffix(".json")
    try:
        manifest = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{sidecar} cannot be read as a manifest ({error})") from None
    return manifest if isinstance(manifest, dict) else {}


class _Items:
    """The manifests of the ROIs; the last few are cached.

    Args:
        find_path: returns the array file of a ROI; None where the ROI has no file.
    """

    def __init__(self, n: int, find_path: Callable[[int], Path | None]) -> None:
        self.n, self.find_path = n, find_path
        self.read = functools.lru_cache(maxsize=16)(lambda row: _read_sidecar(find_path(row)))

    def read_entry(self, row: int, label: str) -> dict[str, Any]:
        """The entry of a model in the manifest of a ROI; empty where missing."""
        return _find_entry(self.read(row), label)

    def read_meta(self, row: int, label: str) -> dict[str, Any] | None:
        """The record of a model in the manifest of a ROI, with that of its image."""
        item = self.read(row)
        entry = _find_entry(item, label)
        meta = entry.get("meta")
        if not isinstance(meta, Mapping):
            return None
        if "schema_version" not in item:
            return dict(meta)
        image = (item.get("imagery") or {}).get(entry.get("source")) or {}
        digests = {f"{k}_sha256": (entry.get(k) or {}).get("sha256") for k in ("embedding", "input")}
        return record_defaults.drop_nulls({**image, **meta, **digests})

    def columns(self, label: str, key: str) -> dict[str, Column | None]:
        """The columns of a model; ``key`` is its part of array names."""

        def find_key(kind: str, row: int) -> str | None:
            array = self.read_entry(row, label).get(_ENTRY_KEY[kind])
            return (array or {}).get("npz_key")

        return {
            kind: FilePerRoi(self.n, self.find_path, _PREFIX[kind] + key, functools.partial(find_key, kind))
            for kind in _PREFIX
        }


def _find_entry(item: Mapping[str, Any], label: str) -> dict[str, Any]:
    return next((m for m in item.get("models") or () if m.get("model") == label), {})


def _build_failure(entry: Mapping[str, Any]) -> Failure:
    return Failure(entry.get("error"), entry.get("stage"), entry.get("retryable"))


# with an index -----------------------------------------------------------------------------------


def _open_with_index(folder: Path, index: Path, manifest: dict[str, Any], n_items: int | None) -> ExportResult:
    entries, n = manifest["items"], int(manifest["n_items"])
    if n_items not in (None, n):
        raise ValueError(f"n_items: {n_items} is not the number of ROIs of {index}; allowed: {n} or None")

    def find_path(row: int) -> Path:
        return folder / str(entries[row]["file"])

    items = _Items(n, find_path)

    def read_roi_values(key: str) -> Iterator[Any]:
        if key == "names":
            return (e["name"] for e in entries)
        if key in manifest:
            return iter(manifest_lines.as_list(manifest[key]))
        # an index of schema 1 has no geometries
        return (items.read(i).get("spatial") or {} for i in range(n)) if key == "spatials" else iter(())

    models = {e["model"]: _build_indexed_model(e, items, manifest["schema_version"]) for e in manifest["models"]}
    window = parse_window(manifest.get("temporal"))
    return ExportResult("per_item", manifest["status"], n, window, models, folder, [], manifest, index, read_roi_values)


def _build_indexed_model(entry: dict[str, Any], items: _Items, schema_version: int) -> ModelResult:
    """The results of a model of the index. Schema 1 stores failures and statuses in the manifests
    of the ROIs only."""
    label, n = entry["model"], items.n

    def read_failures() -> dict[int, Failure]:
        if schema_version == 1:
            found = {i: items.read_entry(i, label) for i in range(n)} if entry["status"] != "ok" else {}
            return {i: _build_failure(e) for i, e in found.items() if e.get("status") == "failed"}
        errors = manifest_lines.parse_index_keys(entry.get("errors_by_index"))
        details = manifest_lines.parse_index_keys(entry.get("failures_by_index"))
        return {i: Failure(errors[i], **details.get(i, {})) for i in errors}

    def read_statuses() -> list[str]:
        if schema_version == 1:
            return [items.read_entry(i, label).get("status", "failed") for i in range(n)]
        return manifest_lines.read_statuses(entry, n)

    error = entry.get("error")
    if error is None and entry["status"] != "ok":
        error = next((f.error for f in read_failures().values()), None)
    columns = items.columns(label, entry["key"])
    for name in entry.get("model_inputs", ()):
        key = f"model_input__{entry['key']}" + ("" if name == "pixels" else f"__{name}")
        columns[MODEL_INPUT_PREFIX + name] = FilePerRoi(n, items.find_path, key, lambda row: None)
    meta = Records(n, lambda i: items.read_meta(i, label))
    kept = {k: v for k, v in entry.items() if not isinstance(v, manifest_lines.LineList)}
    return ModelResult(label, entry["status"], error, n, meta, kept, columns, read_failures, read_statuses)


# without an index (rs-embed) ---------------------------------------------------------------------


@dataclass
class _Roi:
    """What is kept of the manifest of a ROI; a manifest of rs-embed has 12 kB for each model.

    Attributes:
        path: the array file.
        statuses, failures: by label of the model; by key of array names where ``has_keys``.
        has_schema: this package wrote the manifest.
    """

    path: Path
    spatial: dict[str, Any]
    temporal: dict[str, Any] | None
    has_keys: bool = False
    has_schema: bool = False
    statuses: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def _open_without_index(folder: Path, n_items: int | None) -> ExportResult:
    rois, notes = _scan_folder(folder)
    if not rois:
        raise FileNotFoundError(f"{folder} contains no per_item export: no manifest.json, and no file of a ROI")
    n = max(max(rois) + 1, n_items or 0)
    missing = [i for i in range(n) if i not in rois]
    if missing:
        rows = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        notes.append(f"no file for {len(missing)} ROIs (rows {rows}): they failed as a whole")
    if any(roi.has_schema for roi in rois.values()):
        notes.append("manifest.json is missing: the folder may contain files of ROIs of earlier requests")
    _replace_keys_by_labels(rois)
    items = _Items(n, {i: roi.path for i, roi in rois.items()}.get)
    labels = dict.fromkeys(label for i in sorted(rois) for label in rois[i].statuses)
    models = {label: _build_scanned_model(label, rois, items) for label in labels}
    found = {m.status for m in models.values()} or ({"partial"} if missing else {"unknown"})
    status = found.pop() if len(found) == 1 else "partial"
    windows = [rois[i].temporal if i in rois else None for i in range(n)]
    values: dict[str, list[Any]] = {
        "names": [rois[i].path.stem if i in rois else f"p{i:05d}" for i in range(n)],
        "spatials": [rois[i].spatial if i in rois else {} for i in range(n)],
        "windows": windows,
    }
    window = next((w for w in windows if w), None)
    first = rois[min(rois)].path
    head = _read_sidecar(first)
    sidecar = first.with_suffix(".json") if head else None
    return ExportResult(
        "per_item", status, n, window, models, folder, notes, head, sidecar, lambda k: values.get(k, ())
    )


def _scan_folder(folder: Path) -> tuple[dict[int, _Roi], list[str]]:
    """The ROIs of a folder by row, and notes about files that are left out."""
    rois: dict[int, _Roi] = {}
    notes: list[str] = []
    for path in _list_array_files(folder):
        item = _read_sidecar(path)
        row = _find_row(path, item)
        if row is None or "n_items" in item:
            notes.append(f"{path.name} is left out: nothing says which ROI it is of")
            continue
        if row in rois:
            both = f"{rois[row].path.name} and {path.name} are both of ROI {row}"
            raise ValueError(f"{folder}: {both}; allowed: the files of one export")
        if not item:
            notes.append(f"{path.with_suffix('.json').name} is missing: of ROI {row} only the arrays are known")
            item = {"models": _list_models(path), "status": "unknown"}
        rois[row] = _build_roi(path, item)
    return rois, notes


def _list_array_files(folder: Path) -> list[Path]:
    """The array files of a folder; of two files of one ROI the one that its manifest names, else
    the npz."""
    chosen: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIX.values()):
        if path.stem not in chosen:
            chosen[path.stem] = path
            continue
        item = _read_sidecar(path)
        if Path(str(item.get("nc_path"))).name == path.name or (path.suffix == ".npz" and "nc_path" not in item):
            chosen[path.stem] = path
    return [chosen[stem] for stem in sorted(chosen)]


def _find_row(path: Path, item: Mapping[str, Any]) -> int | None:
    """The row of a ROI from its manifest, else from the name of its file (``p00003``)."""
    row = item.get("point_index")
    if isinstance(row, int) and row >= 0:
        return row
    return int(path.stem[1:]) if path.stem[:1] == "p" and path.stem[1:].isdigit() else None


def _list_models(path: Path) -> list[dict[str, Any]]:
    """Entries of models from the names of a file's arrays; these contain keys instead of
    labels."""
    with open_arrays(path) as file:
        names = file.keys()
    keys = dict.fromkeys(k.removeprefix(p) for k in names for p in _PREFIX.values() if k.startswith(p))
    return [{"model": key, "status": "unknown"} for key in keys]


def _build_roi(path: Path, item: Mapping[str, Any]) -> _Roi:
    spatial = item.get("spatial")
    roi = _Roi(path, spatial if isinstance(spatial, dict) else {}, parse_window(item.get("temporal")))
    roi.has_keys, roi.has_schema = item.get("status") == "unknown", "schema_version" in item
    for entry in item.get("models") or ():
        label, status = str(entry.get("model")), str(entry.get("status", "failed"))
        roi.statuses[label] = status
        if status == "failed":
            roi.failures[label] = _build_failure(entry)
    return roi


def _replace_keys_by_labels(rois: Mapping[int, _Roi]) -> None:
    """Use the labels of other ROIs' manifests for ROIs whose models are known by key only."""
    labels = dict.fromkeys(label for i in sorted(rois) for label in rois[i].statuses if not rois[i].has_keys)
    label_of_key = {array_key(label): label for label in labels}
    for roi in rois.values():
        if roi.has_keys:
            roi.statuses = {label_of_key.get(key, key): status for key, status in roi.statuses.items()}


def _build_scanned_model(label: str, rois: Mapping[int, _Roi], items: _Items) -> ModelResult:
    n = items.n
    statuses = [rois[i].statuses.get(label, "failed") if i in rois else "failed" for i in range(n)]
    failed = [i for i, status in enumerate(statuses) if status == "failed"]
    status = "unknown" if set(statuses) == {"unknown"} else overall_status(n - len(failed), len(failed))
    no_entry, no_file = Failure("not in the ROI's manifest"), Failure("no file of this ROI")
    failures = {i: rois[i].failures.get(label, no_entry) if i in rois else no_file for i in failed}
    error = next((rois[i].failures[label].error for i in sorted(rois) if label in rois[i].failures), None)
    if error is None:
        error = next((f.error for f in failures.values()), None)
    meta = Records(n, lambda i: None if statuses[i] == "failed" else items.read_meta(i, label))
    entry = next((items.read_entry(i, label) for i in sorted(rois) if label in rois[i].statuses), {})
    kept = {k: v for k, v in entry.items() if k not in ("meta", "input", "embedding", "error", "status")}
    columns = items.columns(label, array_key(label))
    return ModelResult(label, status, error, n, meta, kept, columns, lambda: failures, lambda: statuses)
