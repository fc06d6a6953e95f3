"""Manifests: strict JSON, streamed, with the keys of requirements B4 and B5 and what the decisions add.

What is said of a model and of a source is said once in a manifest; per ROI there is what is its own of grid, dates,
provenance, quality and digests (``compact.py``). ``manifest.schema.json`` says all of it; docs/outputs.md explains.
A list with an entry for every ROI has a line for each, at its own depth: the reader finds entries without parsing the others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
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
from ..request.rois import row
from ..request.specs import TemporalSpec
from ..store.store import temporary_name
from . import module

SCHEMA_VERSION = 2
#: JSON schema of all manifests, in the package.
SCHEMA = Path(__file__).with_name("manifest.schema.json")


class Stream:
    """A list that is written while it is made, so that a manifest of any length needs the memory of one row."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items


class Pairs(Stream):
    """A mapping that is written while it is made, from pairs of key and value."""


def dump(value: Any, file: TextIO, indent: int = 0) -> None:
    """Write strict JSON; mappings on the first two levels and streams get a line per entry."""
    if isinstance(value, Pairs):
        _lines(("", "{", "}"), (((json.dumps(k) + ": ",), v) for k, v in value.items), file, indent)
    elif isinstance(value, Stream):
        _lines(("", "[", "]"), (((), _Row(item)) for item in value.items), file, indent)
    elif isinstance(value, _Row):
        file.write(json.dumps(value.value, allow_nan=False, separators=(",", ":")))
    elif isinstance(value, Mapping) and (indent < 2 or _streams(value)):
        _lines(("", "{", "}"), (((json.dumps(k) + ": ",), v) for k, v in value.items()), file, indent)
    elif isinstance(value, list) and indent < 2 and any(isinstance(v, Mapping) for v in value):
        _lines(("", "[", "]"), (((), v) for v in value), file, indent)
    else:
        file.write(json.dumps(value, allow_nan=False))


class _Row:
    """An entry of a stream: one line, whatever is in it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _streams(value: Mapping) -> bool:
    """There is a stream somewhere in nested mappings."""
    return any(isinstance(v, Stream) or (isinstance(v, Mapping) and _streams(v)) for v in value.values())


def _lines(marks: tuple[str, str, str], entries: Iterable[tuple[tuple, Any]], file: TextIO, indent: int) -> None:
    pad, first = " " * (indent + 1), True
    file.write(marks[1])
    for prefix, value in entries:
        file.write(("" if first else ",") + "\n" + pad + "".join(prefix))
        dump(value, file, indent + 1)
        first = False
    file.write(("" if first else "\n" + " " * indent) + marks[2])


def write(path: str | Path, manifest: Mapping) -> None:
    """Write a manifest to a temporary file and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            dump(manifest, file)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def spatial(place: Any) -> dict:
    """A ROI as manifests have it."""
    return {"type": type(place).__name__, **row(place), "crs": place.crs}


def window(temporal: TemporalSpec | None) -> dict | None:
    """A window as manifests have it."""
    return None if temporal is None else temporal.to_dict()


def header(plan: Plan, created: str) -> dict:
    """What every manifest of a run begins with."""
    request = plan.request
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": created,
        "package_version": importlib.metadata.version("rs-embed-workflow"),
        "layout": plan.layout,
        "backend": _beside(plan, request.backend),
        "device": request.device,
        "temporal": window(request.temporal),
        "output": to_mapping(request.output, defaults=True),
        "projection": request.config.projection,
        "request_fingerprint": plan.fingerprint,
        "sources": {s.id: {**s.identity, "bands": list(s.bands)} for s in plan.sources},
    }


def _beside(plan: Plan, backend: str) -> str:
    """A backend with its path relative to the manifest, like every path in it."""
    word, sep, path = backend.partition(":")
    return (
        word + sep + (os.path.relpath(path, os.path.dirname(plan.manifest_beside_target)) if word == "local" else path)
    )


def model_entry(unit: Unit, info: ModelInfo, *, brief: bool = False) -> dict:
    """What a manifest says of a model, the same in both layouts.

    Args:
        brief: without the description of everything the model can do, which the index of the export has.
    """
    said = {"id": info.id, "licence": info.licence} if brief else describe(info)
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
        "describe": said | {"dim": info.dim(unit.options), "adapter_version": info.version},
    }


def describe(info: ModelInfo) -> dict:
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


def array_files(path: str, keys: Any, sidecar: str) -> dict:
    """Names of the files, relative to the manifest, and of the arrays; under the names that each format has for them."""
    words = module(next(name for name, suffix in SUFFIX.items() if path.endswith(suffix)))
    return {words.PATH: Path(path).name, words.KEYS: keys, "manifest_path": Path(sidecar).name}


def status_of(ok: int, failed: int) -> str:
    """``ok`` without failures (``no_data`` is an answer, not a failure), ``failed`` with nothing else, else ``partial``."""
    return "ok" if not failed else "partial" if ok else "failed"


def summary(statuses: Iterable[str]) -> dict:
    """Counts of model statuses."""
    found = list(statuses)
    return {"total_models": len(found), **{f"{s}_models": found.count(s) for s in ("ok", "partial", "failed")}}


def file_record(path: str | Path, base: str | None = None, sha256: str | None = None) -> dict:
    """Size, modification time and digest of a file: what a receipt keeps to notice later damage.

    Args:
        sha256: its digest, where the one who wrote it knows it; None reads it.
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


def damaged(record: Mapping, base: str = "") -> bool:
    """A recorded file is gone or has changed; a digest is only computed where the size fits and the time does not."""
    path = os.path.join(base, record["path"])
    try:
        stat = os.stat(path)
    except OSError:
        return True
    if stat.st_size != record["size"]:
        return True
    return stat.st_mtime_ns != record["mtime_ns"] and file_record(path)["sha256"] != record["sha256"]


def remove_own(path: str | Path, arrays: str | Path) -> None:
    """Delete a manifest that an earlier run wrote where this one is asked to write none; anything else stays.

    Args:
        arrays: the file that this one writes; a manifest of another format's file stays.
    """
    if is_own(path) and not of_another(path, arrays):
        os.unlink(path)


def of_another(path: str | Path, arrays: str | Path) -> bool:
    """What is there is the manifest of another array file, which is there, too: ``run.json`` is that of ``run.npz`` or of
    ``run.nc``, whichever was written last."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        said = next(found[k] for k in (module(f).PATH for f in SUFFIX) if k in found)
        other = os.path.join(os.path.dirname(path), os.path.basename(said))
    except (OSError, ValueError, TypeError, StopIteration):
        return False
    return os.path.basename(other) != os.path.basename(arrays) and os.path.exists(other)


def is_json(path: str | Path) -> bool:
    """The file can be read as JSON, of anybody."""
    try:
        with open(path, encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


def is_own(path: str | Path) -> bool:
    """The file is a manifest of this package or of the reference library (of any request)."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "request_fingerprint" in found
