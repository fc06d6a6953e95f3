"""Open a per_item export: a folder with a file and a manifest for each ROI, with our index or without one."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..formats import record_defaults
from ..formats.manifest import status_of
from ..planning.units import array_key
from ..request.config import SUFFIX
from . import manifest_lines
from .columns import Column, Files
from .manifest_records import Records
from .result import MODEL_INPUT, ExportResult, Failure, ModelResult, window

_KIND = {"embeddings": "embedding", "inputs": "input"}
_USUAL = {"embeddings": "embedding__", "inputs": "input_chw__"}


def open_folder(folder: Path, n_items: int | None) -> ExportResult:
    """Open a folder; see :func:`rs_embed.load_export`."""
    index = folder / "manifest.json"
    if index.exists():
        manifest = manifest_lines.read(index)
        if isinstance(manifest.get("items"), (list, manifest_lines.Lines)):
            return _indexed(folder, index, manifest, n_items)
    return _found(folder, n_items)


def _sidecar(path: Path | None) -> dict:
    if path is None:
        return {}
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path.with_suffix('.json')} cannot be read as a manifest ({error})") from None
    return found if isinstance(found, dict) else {}


def _entry(item: Mapping, label: str) -> dict:
    return next((m for m in item.get("models") or () if m.get("model") == label), {})


def _columns(
    n: int, path: Callable[[int], Path | None], item: Callable[[int], dict], label: str, key: str
) -> dict[str, Column | None]:
    def named(kind: str, row: int) -> str | None:
        return (_entry(item(row), label).get(_KIND[kind]) or {}).get("npz_key")

    return {kind: Files(n, path, _USUAL[kind] + key, functools.partial(named, kind)) for kind in _KIND}


def _meta(item: Mapping, label: str) -> dict | None:
    """What a ROI's manifest says of a model, with what it says of its image."""
    entry = _entry(item, label)
    meta = entry.get("meta")
    if not isinstance(meta, Mapping):
        return None
    image = (item.get("imagery") or {}).get(entry.get("source")) or {}
    if "schema_version" not in item:
        return dict(meta)
    parts = ((k, (entry.get(k) or {}).get("sha256")) for k in ("embedding", "input"))
    return record_defaults.clean({**image, **meta, **{f"{k}_sha256": sha for k, sha in parts}})


# our own, by the index ------------------------------------------------------------------------------------------


def _indexed(folder: Path, index: Path, manifest: dict, n_items: int | None) -> ExportResult:
    entries, n = manifest["items"], int(manifest["n_items"])
    if n_items not in (None, n):
        raise ValueError(f"n_items: {n_items} is not the number of ROIs of {index}; allowed: {n} or None")

    def path(row: int) -> Path:
        return folder / entries[row]["file"]

    item = functools.lru_cache(maxsize=16)(lambda row: _sidecar(path(row)))

    def places(what: str) -> Iterator:
        if what == "names":
            return (e["name"] for e in entries)
        if what in manifest:
            return iter(manifest_lines.as_list(manifest[what]))
        # an index of schema 1 has no geometries
        return (item(i).get("spatial") or {} for i in range(n)) if what == "spatials" else iter(())

    models = {}
    for entry in manifest["models"]:
        label = entry["model"]

        def failures(entry: dict = entry, label: str = label) -> dict[int, Failure]:
            if manifest["schema_version"] == 1:
                held = {i: _entry(item(i), label) for i in range(n)} if entry["status"] != "ok" else {}
                return {i: _failure(e) for i, e in held.items() if e.get("status") == "failed"}
            errors, more = (manifest_lines.by_index(entry.get(k)) for k in ("errors_by_index", "failures_by_index"))
            return {i: Failure(errors[i], **more.get(i, {})) for i in errors}

        def statuses(entry: dict = entry, label: str = label) -> list[str]:
            if manifest["schema_version"] == 1:
                return [_entry(item(i), label).get("status", "failed") for i in range(n)]
            out = ["ok"] * n
            for i in manifest_lines.as_list(entry.get("no_data_indices")):
                out[i] = "no_data"
            return out

        meta = Records(n, lambda i, label=label: _meta(item(i), label))
        error = entry.get("error")
        if error is None and entry["status"] != "ok":
            error = next((f.error for f in failures().values()), None)
        kept = {k: v for k, v in entry.items() if not isinstance(v, manifest_lines.Lines)}
        columns = _columns(n, path, item, label, entry["key"])
        for name in entry.get("model_inputs", ()):
            usual = f"model_input__{entry['key']}" + ("" if name == "pixels" else f"__{name}")
            columns[MODEL_INPUT + name] = Files(n, path, usual, lambda row: None)
        models[label] = ModelResult(
            label,
            entry["status"],
            error,
            n,
            meta,
            kept,
            columns,
            failures,
            statuses,
        )
    temporal = window(manifest.get("temporal"))
    return ExportResult("per_item", manifest["status"], n, temporal, models, folder, [], manifest, index, places)


def _failure(entry: Mapping) -> Failure:
    return Failure(entry.get("error"), entry.get("stage"), entry.get("retryable"))


# rs-embed's, by what lies in the folder -------------------------------------------------------------------------


@dataclass
class _Item:
    """What is kept of the manifest of a ROI: rs-embed's have 12 kB for each model."""

    path: Path
    spatial: dict
    temporal: dict | None
    statuses: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    bare: bool = False


def _found(folder: Path, n_items: int | None) -> ExportResult:
    items: dict[int, _Item] = {}
    notes: list[str] = []
    ours = False
    for path in _pairs(folder):
        said = _sidecar(path)
        row = said.get("point_index")
        if not isinstance(row, int) or row < 0:
            row = int(path.stem[1:]) if path.stem[:1] == "p" and path.stem[1:].isdigit() else None
        if row is None or "n_items" in said:
            notes.append(f"{path.name} is left out: nothing says which ROI it is of")
            continue
        if row in items:
            raise ValueError(
                f"{folder}: {items[row].path.name} and {path.name} are both of ROI {row}; allowed: the files of one export"
            )
        if not said:
            notes.append(f"{path.with_suffix('.json').name} is missing: of ROI {row} only the arrays are known")
            said = {"models": _bare(path), "status": "unknown"}
        spatial = said.get("spatial")
        items[row] = _Item(path, spatial if isinstance(spatial, dict) else {}, window(said.get("temporal")))
        items[row].bare = said.get("status") == "unknown"
        for entry in said.get("models") or ():
            label, status = str(entry.get("model")), str(entry.get("status", "failed"))
            items[row].statuses[label] = status
            if status == "failed":
                items[row].failures[label] = _failure(entry)
        ours = ours or "schema_version" in said
    if not items:
        raise FileNotFoundError(f"{folder} holds no per_item export: there is no manifest.json, and no file of a ROI")
    n = max(max(items) + 1, n_items or 0)
    missing = [i for i in range(n) if i not in items]
    if missing:
        rows = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        notes.append(f"no file for {len(missing)} ROIs (rows {rows}): they failed as a whole")
    if ours:
        notes.append("manifest.json is missing: files of ROIs that were asked for earlier may be among these")
    known = dict.fromkeys(label for i in sorted(items) for label in items[i].statuses if not items[i].bare)
    by_key = {array_key(label): label for label in known}
    for held in items.values():
        if held.bare:
            held.statuses = {by_key.get(k, k): s for k, s in held.statuses.items()}
    labels = dict.fromkeys(label for i in sorted(items) for label in items[i].statuses)
    path = {i: held.path for i, held in items.items()}.get
    item = functools.lru_cache(maxsize=16)(lambda row: _sidecar(path(row)))
    models = {label: _model(label, items, n, path, item) for label in labels}
    found = {m.status for m in models.values()}
    if missing and not found:
        found = {"partial"}
    status = found.pop() if len(found) == 1 else "partial" if found else "unknown"
    windows = [items[i].temporal if i in items else None for i in range(n)]
    lists: dict[str, list] = {
        "names": [items[i].path.stem if i in items else f"p{i:05d}" for i in range(n)],
        "spatials": [items[i].spatial if i in items else {} for i in range(n)],
        "windows": windows,
    }
    temporal = next((w for w in windows if w), None)
    first = items[min(items)].path
    head = _sidecar(first)
    sidecar = first.with_suffix(".json") if head else None
    return ExportResult(
        "per_item", status, n, temporal, models, folder, notes, head, sidecar, lambda what: lists.get(what, ())
    )


def _pairs(folder: Path) -> list[Path]:
    """The array files of a folder; of two of one ROI the one that its manifest speaks of, else the npz."""
    chosen: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIX.values()):
        other = chosen.get(path.stem)
        if other is None:
            chosen[path.stem] = path
            continue
        said = _sidecar(path)
        if Path(str(said.get("nc_path"))).name == path.name or (path.suffix == ".npz" and "nc_path" not in said):
            chosen[path.stem] = path
    return [chosen[stem] for stem in sorted(chosen)]


def _bare(path: Path) -> list[dict]:
    """Models by the names of a file's arrays."""
    from ..formats import open_arrays

    with open_arrays(path) as file:
        keys = file.keys()
    labels = dict.fromkeys(k.removeprefix(p) for k in keys for p in _USUAL.values() if k.startswith(p))
    return [{"model": label, "status": "unknown"} for label in labels]


def _model(
    label: str,
    items: Mapping[int, _Item],
    n: int,
    path: Callable[[int], Path | None],
    item: Callable[[int], dict],
) -> ModelResult:
    statuses = [items[i].statuses.get(label, "failed") if i in items else "failed" for i in range(n)]
    failed = statuses.count("failed")
    status = "unknown" if set(statuses) == {"unknown"} else status_of(n - failed, failed)
    failures = {
        i: items[i].failures.get(label, Failure("not in the ROI's manifest"))
        if i in items
        else Failure("no file of this ROI")
        for i, s in enumerate(statuses)
        if s == "failed"
    }

    error = next((items[i].failures[label].error for i in sorted(items) if label in items[i].failures), None)
    if error is None:
        error = next((f.error for f in failures.values()), None)
    meta = Records(n, lambda i: None if statuses[i] == "failed" else _meta(item(i), label))
    entry = next((_entry(item(i), label) for i in sorted(items) if label in items[i].statuses), {})
    kept = {k: v for k, v in entry.items() if k not in ("meta", "input", "embedding", "error", "status")}
    key = array_key(label)
    return ModelResult(
        label, status, error, n, meta, kept, _columns(n, path, item, label, key), lambda: failures, lambda: statuses
    )
