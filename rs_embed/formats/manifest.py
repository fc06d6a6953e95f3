"""Manifests: strict JSON, written as a stream, and records of written files.

A manifest stores the metadata of each model and each source once; an entry per ROI contains only
its own grid, dates, provenance, quality and digests (``record_defaults.py``).
``manifest.schema.json`` defines the keys; docs/outputs.md explains them. Each entry of a list over
all ROIs is a line of its own, so a reader finds entries without parsing others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..planning.model_info import ModelInfo
from ..planning.plan import Plan
from ..planning.units import Unit
from ..request.config import SUFFIX
from ..request.fields import json_schema, to_mapping
from ..request.rois import spatial_cells
from ..request.specs import SpatialSpec, TemporalSpec
from ..store.atomic_files import temporary_path
from ..version import package_version
from . import format_module

SCHEMA_VERSION = 2
#: JSON schema of all manifests.
SCHEMA = Path(__file__).with_name("manifest.schema.json")


class StreamedList:
    """A list that is written while it is computed, so that a manifest of any length needs the
    memory of one entry."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items


class StreamedMapping(StreamedList):
    """A mapping that is written while it is computed, from pairs of key and value."""


def dump(value: Any, file: TextIO, indent: int = 0) -> None:
    """Write strict JSON, with a line per entry of streams and of mappings on the first two
    levels."""
    if isinstance(value, StreamedMapping):
        _write_mapping(value.items, file, indent)
    elif isinstance(value, StreamedList):
        _write_entries("[]", (("", _SingleLine(item)) for item in value.items), file, indent)
    elif isinstance(value, _SingleLine):
        file.write(json.dumps(value.value, allow_nan=False, separators=(",", ":")))
    elif isinstance(value, Mapping) and (indent < 2 or _contains_stream(value)):
        _write_mapping(value.items(), file, indent)
    elif isinstance(value, list) and indent < 2 and any(isinstance(v, Mapping) for v in value):
        _write_entries("[]", (("", v) for v in value), file, indent)
    else:
        file.write(json.dumps(value, allow_nan=False))


class _SingleLine:
    """An entry of a streamed list: one line, whatever it contains."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _contains_stream(value: Mapping) -> bool:
    """Whether nested mappings contain a stream."""
    return any(isinstance(v, StreamedList) or (isinstance(v, Mapping) and _contains_stream(v)) for v in value.values())


def _write_mapping(pairs: Iterable[tuple[str, Any]], file: TextIO, indent: int) -> None:
    _write_entries("{}", ((json.dumps(k) + ": ", v) for k, v in pairs), file, indent)


def _write_entries(brackets: str, entries: Iterable[tuple[str, Any]], file: TextIO, indent: int) -> None:
    """Write prefixes and values between brackets, a line per entry."""
    pad, is_first = " " * (indent + 1), True
    file.write(brackets[0])
    for prefix, value in entries:
        file.write(("" if is_first else ",") + "\n" + pad + prefix)
        dump(value, file, indent + 1)
        is_first = False
    file.write(("" if is_first else "\n" + " " * indent) + brackets[1])


def write(path: str | Path, manifest: Mapping) -> None:
    """Write a manifest to a temporary file and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            dump(manifest, file)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def spatial_to_json(spatial: SpatialSpec) -> dict:
    """A geometry as JSON values."""
    return {"type": type(spatial).__name__, **spatial_cells(spatial), "crs": spatial.crs}


def window_to_json(temporal: TemporalSpec | None) -> dict | None:
    """A window as JSON values."""
    return None if temporal is None else temporal.to_dict()


def build_header(plan: Plan, created: str) -> dict:
    """The first keys of every manifest of a run."""
    request = plan.request
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": created,
        "package_version": package_version(),
        "layout": plan.layout,
        "backend": _relative_backend(plan, request.backend),
        "device": request.device,
        "temporal": window_to_json(request.temporal),
        "output": to_mapping(request.output, defaults=True),
        "projection": request.config.projection,
        "request_fingerprint": plan.fingerprint,
        "sources": {s.id: {**s.identity, "bands": list(s.bands)} for s in plan.sources},
    }


def _relative_backend(plan: Plan, backend: str) -> str:
    """A backend with its path relative to the manifest, like every path in it."""
    kind, separator, path = backend.partition(":")
    if kind == "local":
        path = os.path.relpath(path, os.path.dirname(plan.manifest_beside_target))
    return kind + separator + path


def build_model_entry(unit: Unit, info: ModelInfo, *, brief: bool = False) -> dict:
    """The entry of a model, the same in both layouts.

    Args:
        brief: without the full description of the model, which the index of the export contains.
    """
    description = {"id": info.id, "licence": info.licence} if brief else describe_model(info)
    return {
        "model": unit.label,
        "key": unit.key,
        "id": unit.model,
        "unit": unit.id,
        "source": unit.source,
        "sensor": to_mapping(unit.sensor, defaults=True) | {"modality": unit.modality},
        "options": {k: v for k, v in to_mapping(unit.options, defaults=True).items() if k != "weights"},
        "input_prep": unit.identity["input_prep"],
        "precision": unit.identity["precision"],
        "describe": description | {"dim": info.dim(unit.options), "adapter_version": info.version},
    }


def describe_model(info: ModelInfo) -> dict:
    """A model's description as JSON values."""
    return {
        "id": info.id,
        "aliases": list(info.aliases),
        "summary": info.summary,
        "citation": info.citation,
        "licence": info.licence,
        "outputs": list(info.outputs),
        "modalities": {
            k: {"collection": m.sensor.collection, "bands": list(m.sensor.bands), "units": m.units}
            for k, m in info.modalities.items()
        },
        "options": json_schema(info.options)["properties"],
    }


def array_file_entries(path: str, keys: Any, sidecar: str) -> dict:
    """Names of the files, relative to the manifest, and of the arrays, under the keys of the
    format."""
    module = format_module(next(name for name, suffix in SUFFIX.items() if path.endswith(suffix)))
    return {module.PATH: Path(path).name, module.KEYS: keys, "manifest_path": Path(sidecar).name}


def overall_status(ok: int, failed: int) -> str:
    """``ok`` without failures (``no_data`` counts as ok), ``failed`` with failures only, else
    ``partial``."""
    return "ok" if not failed else "partial" if ok else "failed"


def count_statuses(statuses: Iterable[str]) -> dict:
    """Counts of model statuses."""
    found = list(statuses)
    return {"total_models": len(found), **{f"{s}_models": found.count(s) for s in ("ok", "partial", "failed")}}


def file_record(path: str | Path, base: str | None = None, sha256: str | None = None) -> dict:
    """Size, modification time and digest of a file; receipts store it to detect later damage.

    Args:
        base: folder that the recorded path is relative to; None records ``path`` unchanged.
        sha256: digest, if known; None computes it.
    """
    with open(path, "rb") as file:
        sha = sha256 or hashlib.file_digest(file, "sha256").hexdigest()
        stat = os.fstat(file.fileno())
    return {
        "path": os.path.relpath(path, base) if base else str(path),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": sha,
    }


def is_damaged(record: Mapping, base: str = "") -> bool:
    """Whether a recorded file is missing or has changed; the digest is compared only if size is
    equal and time is not."""
    path = os.path.join(base, record["path"])
    try:
        stat = os.stat(path)
    except OSError:
        return True
    if stat.st_size != record["size"]:
        return True
    return stat.st_mtime_ns != record["mtime_ns"] and file_record(path)["sha256"] != record["sha256"]


def remove_manifest(path: str | Path, arrays: str | Path) -> None:
    """Delete the manifest of an earlier run, for a run without manifest; other files stay.

    Args:
        arrays: the array file of this run; the manifest of a file in another format stays.
    """
    if is_manifest(path) and not belongs_to_other_file(path, arrays):
        os.unlink(path)


def belongs_to_other_file(path: str | Path, arrays: str | Path) -> bool:
    """Whether the manifest is that of another array file, which exists.

    ``run.json`` belongs to ``run.npz`` or ``run.nc``, whichever was written last.
    """
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        listed = next(manifest[k] for k in (format_module(f).PATH for f in SUFFIX) if k in manifest)
        other = os.path.join(os.path.dirname(path), os.path.basename(listed))
    except (OSError, ValueError, TypeError, StopIteration):
        return False
    return os.path.basename(other) != os.path.basename(arrays) and os.path.exists(other)


def is_json(path: str | Path) -> bool:
    """Whether the file can be read as JSON of any kind."""
    try:
        with open(path, encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


def is_manifest(path: str | Path) -> bool:
    """Whether the file is a manifest of this package or of rs-embed, of any request."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "request_fingerprint" in content
