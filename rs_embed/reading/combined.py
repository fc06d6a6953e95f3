"""Open a combined export: an array file and its manifest, or an array file without a manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..formats import open_arrays
from ..request.config import SUFFIX
from . import manifest_lines, manifest_records
from .columns import ArrayPerRoi, Column, StackedArray
from .model_result import MODEL_INPUT_PREFIX, Failure, ModelResult
from .result import ExportResult, parse_window

#: Prefixes of the names of arrays by kind: one array of all ROIs, and an array per ROI.
_STACKED = {"embeddings": "embeddings__", "inputs": "inputs_bchw__"}
_PER_ROI = {"embeddings": "embedding__", "inputs": "input_chw__"}


def open_file(base: Path, arrays: Path | None, n_items: int | None) -> ExportResult:
    """Open an export by its path without a suffix.

    Args:
        arrays: the array file; None: the one that the manifest names, else the one that exists.
    """
    sidecar = base.with_name(base.name + ".json")
    if not sidecar.exists():
        arrays = arrays or _find_arrays(base, {})
        if arrays is None or not arrays.exists():
            raise FileNotFoundError(f"{arrays or f'{base}.npz or {base}.nc'} is missing: there is no export")
        return _open_without_manifest(arrays, n_items)
    manifest = _read_combined_manifest(sidecar)
    arrays = _require_arrays(base, arrays, manifest, sidecar)
    n = int(manifest["n_items"])
    if n_items not in (None, n):
        raise ValueError(f"n_items: {n_items} is not the number of ROIs of {sidecar}; allowed: {n} or None")
    models = {m["model"]: _build_model(m, n, arrays, manifest) for m in manifest["models"]}
    status = str(manifest.get("status", "unknown"))
    notes = []
    listed = next(iter(_listed_files(manifest)), arrays.name)
    if listed != arrays.name:  # run.npz and run.nc have one run.json
        if not all(map(_matches_digests, models.values())):
            result = _open_without_manifest(arrays, n_items)
            result.notes.append(f"{sidecar.name} describes {listed}, which contains other arrays")
            return result
        notes.append(f"{sidecar.name} describes {listed}; the compared rows are equal")
    if manifest.get("resume_incomplete") or status == "running":
        notes.append(f"the export was not finished (stage {manifest.get('stage')!r}): models may be missing")
    window = parse_window(manifest.get("temporal"))

    def read_roi_values(key: str) -> Sequence[Any]:
        return manifest_lines.as_list(manifest.get(key))

    return ExportResult("combined", status, n, window, models, arrays, notes, manifest, sidecar, read_roi_values)


def _read_combined_manifest(sidecar: Path) -> dict[str, Any]:
    manifest = manifest_lines.read_manifest(sidecar)
    if "point_index" in manifest:
        allowed = f"its folder {sidecar.parent}, or a combined file"
        raise ValueError(f"{sidecar} is the manifest of one ROI; allowed: {allowed}")
    if "models" not in manifest or "n_items" not in manifest:
        raise ValueError(f"{sidecar} is not the manifest of a combined export")
    return manifest


def _require_arrays(base: Path, arrays: Path | None, manifest: Mapping[str, Any], sidecar: Path) -> Path:
    """The array file of a manifest; it must exist."""
    found = arrays or _find_arrays(base, manifest)
    if found is None or not found.exists():
        other = _find_arrays(base, manifest)
        hint = f", {other.name} is" if other else ""
        raise FileNotFoundError(f"{arrays or f'{base}.npz'} is missing (its manifest {sidecar} is there{hint})")
    return found


def _find_arrays(base: Path, manifest: Mapping[str, Any]) -> Path | None:
    """The array file that a manifest names, else the first that exists."""
    names = [*_listed_files(manifest), *(base.name + s for s in SUFFIX.values())]
    return next((p for p in map(base.with_name, names) if p.exists()), None)


def _listed_files(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the array files that a manifest names."""
    return [Path(manifest[k]).name for k in ("npz_path", "nc_path") if isinstance(manifest.get(k), str)]


def _matches_digests(model: ModelResult) -> bool:
    """Whether the first, middle and last vector of a model have the digests of the manifest."""
    digests = {i: (model.meta[i] or {}).get("embedding_sha256") for i in {0, model.n_items // 2, model.n_items - 1}}
    try:
        arrays = {i: model.rows(i, dtype=None) for i, digest in digests.items() if digest}
    except (ValueError, KeyError, IndexError):
        return False
    return all(a is not None and sha256(a.tobytes()).hexdigest() == digests[i] for i, a in arrays.items())


# models of a manifest ----------------------------------------------------------------------------


def _build_model(entry: dict[str, Any], n: int, arrays: Path, manifest: Mapping[str, Any]) -> ModelResult:
    label = str(entry["model"])
    source = (manifest.get("imagery") or {}).get(entry.get("source"))
    images = manifest_records.ImageRecords(source) if source else None
    meta = manifest_records.build_model_records(n, label, entry, images)
    status = str(entry.get("status", "unknown"))
    error = entry.get("error")
    if error is None and status != "ok":  # rs-embed stores the error per ROI only
        error = next(iter(manifest_lines.parse_index_keys(entry.get("errors_by_index")).values()), None)

    @cache
    def read_failed_rows() -> list[int]:
        return [int(i) for i in manifest_lines.as_list(entry.get("failed_indices"))]

    def read_failures() -> dict[int, Failure]:
        errors = manifest_lines.parse_index_keys(entry.get("errors_by_index"))
        details = manifest_lines.parse_index_keys(entry.get("failures_by_index"))
        rows = read_failed_rows() or list(errors) or (range(n) if status == "failed" else ())
        return {i: Failure(errors.get(i, error), **details.get(i, {})) for i in rows}

    where = f"{arrays}: model {label!r}"
    columns = {kind: _build_column(entry.get(kind), n, arrays, kind, where, read_failed_rows) for kind in _STACKED}
    for name, tensor in (entry.get("model_inputs") or {}).items():
        columns[MODEL_INPUT_PREFIX + name] = _build_column(tensor, n, arrays, "model_inputs", where, read_failed_rows)
    per_roi = ("metas", "errors_by_index")
    kept = {k: v for k, v in entry.items() if not isinstance(v, manifest_lines.LineList) and k not in per_roi}
    statuses = partial(manifest_lines.read_statuses, entry, n)
    return ModelResult(label, status, str(error) if error else None, n, meta, kept, columns, read_failures, statuses)


def _build_column(
    entry: Any, n: int, arrays: Path, kind: str, where: str, read_failed_rows: Callable[[], list[int]]
) -> Column | None:
    """The column of an array entry of a manifest; None without arrays.

    Args:
        where: beginning of error messages.
        read_failed_rows: reads the failed ROIs of the model, on demand.
    """
    if not isinstance(entry, Mapping):
        return None
    indices = entry.get("indices")
    if entry.get("npz_key"):
        if indices is None and isinstance(entry.get("shape"), list) and entry["shape"][0] < n:
            indices = [i for i in range(n) if i not in read_failed_rows()]
            if len(indices) != entry["shape"][0]:
                rows = f"the {entry['shape'][0]} rows of {kind}"
                return _UnassignedRows(f"{where}: nothing says which ROIs {rows} belong to")
        missing = frozenset(manifest_lines.as_list(entry.get("missing_indices")))
        rois = None if indices is None else list(manifest_lines.as_list(indices))
        return StackedArray(arrays, entry["npz_key"], n, rois, missing)
    keys = manifest_lines.as_list(entry.get("npz_keys"))
    if isinstance(keys, list) and not keys:
        return None
    return ArrayPerRoi(arrays, partial(_keys_by_roi, keys, indices), n)


def _keys_by_roi(keys: Sequence[str], indices: Any) -> dict[int, str]:
    """Names of arrays by ROI: from the list of ROIs, else (rs-embed) from the numbers at their
    ends."""
    if indices is None:
        return {int(key.rpartition("__")[2]): key for key in keys}
    return dict(zip(manifest_lines.as_list(indices), keys))


class _UnassignedRows:
    """An array whose rows cannot be assigned to ROIs; reading it is an error."""

    def __init__(self, message: str) -> None:
        self._message = message

    def read(self, rows: Sequence[int]) -> list[Any]:
        raise ValueError(self._message)

    def read_all(self) -> list[Any]:
        raise ValueError(self._message)


# without a manifest ------------------------------------------------------------------------------


@dataclass
class _ModelKeys:
    """Names of the arrays of one model by kind: of all ROIs, and by ROI."""

    stacked: dict[str, str] = field(default_factory=dict)
    per_roi: dict[str, dict[int, str]] = field(default_factory=dict)

    def columns(self, path: Path, n: int) -> dict[str, Column | None]:
        """The columns of the arrays, for an export of ``n`` ROIs."""
        columns: dict[str, Column | None] = {k: StackedArray(path, key, n) for k, key in self.stacked.items()}
        return columns | {k: ArrayPerRoi(path, partial(dict, keys), n) for k, keys in self.per_roi.items()}


def _open_without_manifest(arrays: Path, n_items: int | None) -> ExportResult:
    """An export from the names and shapes of its arrays."""
    with open_arrays(arrays) as file:
        keys = [k for k in file.keys() if not k.startswith("__prefetch")]  # noqa: SIM118 - not a mapping
        shapes, dtypes = {k: file.shape(k) for k in keys}, {k: file.dtype(k) for k in keys}
    found, n = _group_keys(shapes, n_items or 0)
    if not found:
        raise ValueError(f"{arrays} is not a combined export: it has no array that is named like one")
    meta, statuses = manifest_records.Records(n, lambda i: None), ["unknown"] * n
    models = {}
    for label, names in found.items():
        columns = names.columns(arrays, n)
        models[label] = ModelResult(label, "unknown", None, n, meta, {}, columns, dict, lambda: statuses)
    sidecar = arrays.with_suffix(".json").name
    notes = [f"{sidecar} is missing: rows and models are those of the arrays, geometries are unknown"]
    if any(key.startswith(_STACKED["inputs"]) and dtype.kind != "f" for key, dtype in dtypes.items()):
        notes.append("pixels are integers: ROIs without imagery have fill values and cannot be distinguished")
    return ExportResult("combined", "unknown", n, None, models, arrays, notes)


def _group_keys(shapes: Mapping[str, tuple[int, ...]], n: int) -> tuple[dict[str, _ModelKeys], int]:
    """Names of arrays by model, and the number of ROIs that they show, at least ``n``."""
    found: dict[str, _ModelKeys] = {}
    for key, shape in shapes.items():
        for kind in _STACKED:
            if key.startswith(_STACKED[kind]):
                found.setdefault(key.removeprefix(_STACKED[kind]), _ModelKeys()).stacked[kind] = key
                n = max(n, shape[0])
            elif match := re.fullmatch(_PER_ROI[kind] + r"(.+)__(\d{5,})", key):
                found.setdefault(match[1], _ModelKeys()).per_roi.setdefault(kind, {})[int(match[2])] = key
                n = max(n, int(match[2]) + 1)
    return found, n
