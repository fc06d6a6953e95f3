"""``load_export``: read an export back, combined or per_item. Arrays are read when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError

if TYPE_CHECKING:
    import numpy as np


@dataclass
class ModelResult:
    """What one model made.

    Attributes:
        name: its label.
        status: ``ok``, ``partial`` or ``failed``.
        meta: one record per ROI, None where it failed.
        error: the first failure, or None.
    """

    name: str
    status: str
    meta: list[dict | None]
    error: str | None
    _embeddings: Callable[[], list] = field(repr=False)
    _inputs: Callable[[Any], list] = field(repr=False)

    @cached_property
    def embeddings(self) -> np.ndarray | list | None:
        """(N, D) or (N, D, h, w) float32 with NaN rows where there is none; a list of arrays (None where there is
        none) for grids of different sizes; None without embeddings."""
        import numpy as np

        return _stack(self._embeddings(), np.float32)

    @cached_property
    def inputs(self) -> np.ndarray | list | None:
        """(N, C, H, W) float32 pixels in ROI order, with the rules of :attr:`embeddings`."""
        return self.raw_inputs("float32")

    def raw_inputs(self, dtype: Any = None) -> np.ndarray | list | None:
        """Pixels in a dtype of your choice; None keeps the provider's (then every ROI must have pixels)."""
        return _stack(self._inputs(dtype), dtype)


def _stack(rows: list, dtype: Any) -> np.ndarray | list | None:
    """Rows of one shape as one array; a missing row is NaN. Rows of different shapes stay a list."""
    import numpy as np

    if isinstance(rows, np.ndarray):
        return rows
    there = [r for r in rows if r is not None]
    if not there:
        return None
    if len({r.shape for r in there}) > 1:
        return rows
    if len(there) < len(rows) and not np.issubdtype(np.dtype(dtype or there[0].dtype), np.floating):
        return rows
    out = np.full((len(rows), *there[0].shape), np.nan if len(there) < len(rows) else 0, dtype=dtype or there[0].dtype)
    for i, row in enumerate(rows):
        if row is not None:
            out[i] = row
    return out


@dataclass
class ExportResult:
    """An export that was read back.

    Attributes:
        layout: ``combined`` or ``per_item``.
        status: of the whole export. n_items: number of ROIs.
        names: names of the ROIs, in order.
        spatials: geometries as mappings. temporal: the window of the run, or None.
        windows: the window of every ROI: its own, or the run's.
        models: label to :class:`ModelResult`.
        manifest: the manifest (combined) or the index (per_item).
    """

    layout: str
    status: str
    n_items: int
    names: list[str]
    spatials: list[dict]
    temporal: dict | None
    windows: list[dict | None]
    models: dict[str, ModelResult]
    manifest: dict

    def embedding(self, model: str) -> np.ndarray | list:
        """Embeddings of a model by its label.

        Raises:
            ModelError: no such model, or it has none.
        """
        if model not in self.models:
            raise ModelError(f"model: {model!r} is not in this export; allowed: {', '.join(map(repr, self.models))}")
        found = self.models[model].embeddings
        if found is None:
            raise ModelError(
                f"model: {model!r} has no embeddings in this export ({self.models[model].error or 'none were saved'})"
            )
        return found

    @property
    def ok_models(self) -> list[str]:
        """Labels of the models that are ok."""
        return [m.name for m in self.models.values() if m.status == "ok"]

    @property
    def failed_models(self) -> list[str]:
        """Labels of the models that failed."""
        return [m.name for m in self.models.values() if m.status == "failed"]


def load_export(path: str | Path) -> ExportResult:
    """Read an export: a combined file (``.npz`` or its ``.json``), or the folder of a per_item export.

    Raises:
        FileNotFoundError: there is no export. ValueError: the suffix is unknown.
    """
    path = Path(path)
    if path.is_dir() and not path.with_name(path.name + ".npz").exists():
        return _per_item(path)
    if not path.suffix or not (path.exists() or path.suffix in (".npz", ".json", ".nc")):
        path = path.with_name(path.name + ".npz")  # as ExportTarget.combined completes it
    if path.suffix == ".nc":
        raise ValueError(f"{path}: NetCDF is not supported by this version; allowed: .npz, .json or a folder")
    if path.suffix not in (".npz", ".json"):
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; allowed: .npz, .json or a folder")
    return _combined(path.with_suffix(".npz"), path.with_suffix(".json"))


def _open(path: Path) -> Any:
    import numpy as np

    return np.load(path, allow_pickle=False)


def _combined(arrays: Path, sidecar: Path) -> ExportResult:
    if not sidecar.exists():
        raise FileNotFoundError(f"{sidecar} is missing: an export without its manifest cannot be read back")
    manifest = json.loads(sidecar.read_text(encoding="utf-8"))
    if not arrays.exists():
        raise FileNotFoundError(f"{arrays} is missing (its manifest {sidecar} is there)")
    n = manifest["n_items"]

    def rows(entry: dict | None, dtype: Any = "float32") -> list | np.ndarray:
        if entry is None:
            return [None] * n
        with _open(arrays) as file:
            if "npz_key" in entry:
                whole = file[entry["npz_key"]]
                return whole.astype(dtype, copy=False) if dtype else whole
            out: list = [None] * n
            for index, key in zip(entry["indices"], entry["npz_keys"]):
                out[index] = file[key].astype(dtype, copy=False) if dtype else file[key]
            return out

    models = {
        m["model"]: ModelResult(
            m["model"],
            m["status"],
            m["metas"],
            m.get("error"),
            lambda m=m: rows(m["embeddings"]),
            lambda dtype, m=m: rows(m["inputs"], dtype),
        )
        for m in manifest["models"]
    }
    return ExportResult(
        "combined",
        manifest["status"],
        n,
        manifest["names"],
        manifest["spatials"],
        manifest["temporal"],
        [w or manifest["temporal"] for w in manifest.get("windows") or [None] * n],
        models,
        manifest,
    )


def _per_item(folder: Path) -> ExportResult:
    index = folder / "manifest.json"
    if not index.exists():
        raise FileNotFoundError(f"{index} is missing: {folder} is not a finished per_item export")
    manifest = json.loads(index.read_text(encoding="utf-8"))
    items = [
        json.loads((folder / i["file"]).with_suffix(".json").read_text(encoding="utf-8")) for i in manifest["items"]
    ]
    files = [folder / i["file"] for i in manifest["items"]]

    def rows(label: str, kind: str, dtype: Any = "float32") -> list:
        out = []
        for item, path in zip(items, files):
            entry = next((m[kind] for m in item["models"] if m["model"] == label), None)
            if entry is None:
                out.append(None)
                continue
            with _open(path) as file:
                array = file[entry["npz_key"]]
            out.append(array.astype(dtype, copy=False) if dtype else array)
        return out

    models = {}
    for model in manifest["models"]:
        label = model["model"]
        entries = [next(m for m in item["models"] if m["model"] == label) for item in items]
        error = next((e["error"] for e in entries if e.get("error")), None)
        models[label] = ModelResult(
            label,
            model["status"],
            [e["meta"] for e in entries],
            error,
            lambda label=label: rows(label, "embedding"),
            lambda dtype, label=label: rows(label, "input", dtype),
        )
    return ExportResult(
        "per_item",
        manifest["status"],
        manifest["n_items"],
        [i["name"] for i in manifest["items"]],
        [i["spatial"] for i in items],
        manifest["temporal"],
        [i["temporal"] for i in items],
        models,
        manifest,
    )
