"""Open a combined export: an array file and its manifest, or an array file alone."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..formats import open_arrays
from ..request.config import SUFFIX
from . import manifest_lines, manifest_records
from .columns import Column, Single, Stacked
from .result import MODEL_INPUT, ExportResult, Failure, ModelResult, window

#: What arrays are called, by kind: stacked, and one for each ROI.
_STACKED = {"embeddings": "embeddings__", "inputs": "inputs_bchw__"}
_SINGLE = {"embeddings": "embedding__", "inputs": "input_chw__"}


def open_file(base: Path, arrays: Path | None, n_items: int | None) -> ExportResult:
    """Open an export by its path without a suffix.

    Args:
        arrays: its array file; None: the one that the manifest speaks of, else the one that is there.
    """
    sidecar = base.with_name(base.name + ".json")
    if not sidecar.exists():
        arrays = arrays or _there(base, {})
        if arrays is None or not arrays.exists():
            what = arrays or f"{base}.npz or {base}.nc"
            raise FileNotFoundError(f"{what} is missing: there is no export")
        return _bare(arrays, n_items)
    manifest = manifest_lines.read(sidecar)
    if "point_index" in manifest:
        raise ValueError(
            f"{sidecar} is the manifest of one ROI; allowed: its folder {sidecar.parent}, or a combined file"
        )
    if "models" not in manifest or "n_items" not in manifest:
        raise ValueError(f"{sidecar} is not the manifest of a combined export")
    asked, arrays = arrays, arrays or _there(base, manifest)
    if arrays is None or not arrays.exists():
        other = _there(base, manifest)
        hint = f", {other.name} is" if other else ""
        raise FileNotFoundError(f"{asked or f'{base}.npz'} is missing (its manifest {sidecar} is there{hint})")
    n = int(manifest["n_items"])
    if n_items not in (None, n):
        raise ValueError(f"n_items: {n_items} is not the number of ROIs of {sidecar}; allowed: {n} or None")
    models = {m["model"]: _model(m, n, arrays, manifest) for m in manifest["models"]}
    status = str(manifest.get("status", "unknown"))
    notes = []
    said = next(
        (Path(manifest[k]).name for k in ("npz_path", "nc_path") if isinstance(manifest.get(k), str)), arrays.name
    )
    if said != arrays.name:  # run.npz and run.nc have one run.json
        if not all(map(_fits, models.values())):
            found = _bare(arrays, n_items)
            found.notes.append(f"{sidecar.name} is that of {said}, whose arrays are others")
            return found
        notes.append(f"{sidecar.name} is that of {said}; the rows that were compared are the same")
    if manifest.get("resume_incomplete") or status == "running":
        notes.append(f"the export was not finished (stage {manifest.get('stage')!r}): models may be missing")
    return ExportResult(
        "combined",
        status,
        n,
        window(manifest.get("temporal")),
        models,
        arrays,
        notes,
        manifest,
        sidecar,
        lambda what: manifest_lines.as_list(manifest.get(what)),
    )


def _fits(model: ModelResult) -> bool:
    """The first, middle and last vector of a model are those that the manifest speaks of."""
    held = [i for i in {0, model.n_items // 2, model.n_items - 1} if (model.meta[i] or {}).get("embedding_sha256")]
    try:
        found = {i: model.rows(i, dtype=None) for i in held}
    except (ValueError, KeyError, IndexError):
        return False
    return all(
        a is not None and sha256(a.tobytes()).hexdigest() == model.meta[i]["embedding_sha256"] for i, a in found.items()
    )


def _there(base: Path, manifest: Mapping) -> Path | None:
    """The array file that a manifest speaks of, else the first that is there."""
    said = [Path(manifest[k]).name for k in ("npz_path", "nc_path") if isinstance(manifest.get(k), str)]
    names = [*said, *(base.name + s for s in SUFFIX.values())]
    return next((p for p in map(base.with_name, names) if p.exists()), None)


def _model(entry: dict, n: int, arrays: Path, manifest: Mapping) -> ModelResult:
    label = str(entry["model"])
    said = (manifest.get("imagery") or {}).get(entry.get("source"))
    meta = manifest_records.of_model(n, label, entry, manifest_records.Images(said) if said else None)
    status = str(entry.get("status", "unknown"))
    error = entry.get("error")
    if error is None and status != "ok":  # rs-embed says it for each ROI alone
        error = next(iter(manifest_lines.by_index(entry.get("errors_by_index")).values()), None)

    @functools.cache
    def failed() -> list[int]:
        return [int(i) for i in manifest_lines.as_list(entry.get("failed_indices"))]

    def failures() -> dict[int, Failure]:
        errors = manifest_lines.by_index(entry.get("errors_by_index"))
        more = manifest_lines.by_index(entry.get("failures_by_index"))
        rows = failed() or list(errors) or (range(n) if status == "failed" else ())
        return {i: Failure(errors.get(i, error), **more.get(i, {})) for i in rows}

    def statuses() -> list[str]:
        out = ["ok"] * n
        for i in manifest_lines.as_list(entry.get("no_data_indices")):
            out[i] = "no_data"
        return out

    columns = {
        kind: _column(entry.get(kind), n, arrays, kind, f"{arrays}: model {label!r}", failed) for kind in _STACKED
    }
    for name, said in (entry.get("model_inputs") or {}).items():
        columns[MODEL_INPUT + name] = _column(said, n, arrays, "model_inputs", f"{arrays}: model {label!r}", failed)
    kept = {
        k: v
        for k, v in entry.items()
        if not isinstance(v, manifest_lines.Lines) and k not in ("metas", "errors_by_index")
    }
    return ModelResult(label, status, str(error) if error else None, n, meta, kept, columns, failures, statuses)


def _column(entry: Any, n: int, arrays: Path, kind: str, where: str, failed: Callable[[], list[int]]) -> Column | None:
    if not isinstance(entry, Mapping):
        return None
    if entry.get("npz_key"):
        rows = entry.get("indices")
        if rows is None and isinstance(entry.get("shape"), list) and entry["shape"][0] < n:
            rows = [i for i in range(n) if i not in failed()]
            if len(rows) != entry["shape"][0]:
                return _Unplaced(f"{where}: nothing says which ROIs the {entry['shape'][0]} rows of {kind} belong to")
        missing = frozenset(manifest_lines.as_list(entry.get("missing_indices")))
        return Stacked(
            arrays, entry["npz_key"], n, None if rows is None else list(manifest_lines.as_list(rows)), missing
        )
    keys, said = manifest_lines.as_list(entry.get("npz_keys")), entry.get("indices")
    if isinstance(keys, list) and not keys:
        return None
    rows = manifest_lines.as_list(said) if said is not None else (int(k.rpartition("__")[2]) for k in keys)
    return Single(arrays, lambda: dict(zip(rows, keys)), n)


class _Unplaced:
    """Arrays of which nobody knows whose they are."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def read(self, rows: Sequence[int]) -> list:
        raise ValueError(self._sentence)

    def all(self) -> list:
        raise ValueError(self._sentence)


def _bare(arrays: Path, n_items: int | None) -> ExportResult:
    """What an array file says without a manifest: which arrays there are, and of which rows."""
    with open_arrays(arrays) as file:
        keys = [k for k in file.keys() if not k.startswith("__prefetch")]  # noqa: SIM118 - no mapping
        shapes, dtypes = {k: file.shape(k) for k in keys}, {k: file.dtype(k) for k in keys}
    found: dict[str, dict[str, Any]] = {}
    lengths = [n_items or 0]
    for key, shape in shapes.items():
        for kind in _STACKED:
            if key.startswith(_STACKED[kind]):
                found.setdefault(key.removeprefix(_STACKED[kind]), {})[kind] = key
                lengths.append(shape[0])
            elif match := re.fullmatch(_SINGLE[kind] + r"(.+)__(\d{5,})", key):
                found.setdefault(match[1], {}).setdefault(kind, {})[int(match[2])] = key
                lengths.append(int(match[2]) + 1)
    if not found:
        raise ValueError(f"{arrays} is not a combined export: it has no array that is named like one")
    n = max(lengths)
    models = {}
    for name, kinds in found.items():
        columns: dict[str, Column | None] = {
            kind: Single(arrays, lambda held=held: held, n) if isinstance(held, dict) else Stacked(arrays, held, n)
            for kind, held in kinds.items()
        }
        nothing = manifest_records.Records(n, lambda i: None)
        models[name] = ModelResult(name, "unknown", None, n, nothing, {}, columns, dict, lambda: ["unknown"] * n)
    notes = [
        f"{arrays.with_suffix('.json').name} is missing: rows and models are those of the arrays, places are unknown"
    ]
    if any(key.startswith(_STACKED["inputs"]) and kind.kind != "f" for key, kind in dtypes.items()):
        notes.append(
            "pixels are of integers, in which places without imagery are filled, and nothing says which these are"
        )
    return ExportResult("combined", "unknown", n, None, models, arrays, notes)
