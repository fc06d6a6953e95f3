"""Files in the layout of the published library rs-embed 0.3.1, with all its irregularities."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

CREATED = "2026-05-06T07:08:09+00:00Z"
RANGE = {
    "mode": "range",
    "year": "<function TemporalSpec.year at 0x7f0c1a2b3c40>",
    "start": "2022-06-01",
    "end": "2022-09-01",
}
YEAR = {"mode": "year", "year": 2022, "start": None, "end": None}
SENSOR = {"collection": "COPERNICUS/S2_SR_HARMONIZED", "bands": ["B4", "B3"], "scale_m": 10, "cloudy_pct": 30}
HEAD = {"created_at": CREATED, "backend": "gee", "device": "cpu", "output": {"mode": "pooled", "pooling": "mean"}}


def spatial(i: int) -> dict:
    return {"lon": 10 + i / 100, "lat": 50.0, "buffer_m": 320, "crs": "EPSG:4326"}


def vector(label: str, i: int, shape=(6,)) -> np.ndarray:
    """The embedding of a ROI, different for every row and model."""
    return (np.arange(np.prod(shape), dtype=np.float32) + 100 * i + len(label)).reshape(shape)


def pixels(i: int, side: int = 8) -> np.ndarray:
    return np.full((2, side, side), i + 0.5, np.float32)


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
        return
    import xarray

    variables = {}
    for key, array in arrays.items():  # each array has separate dimensions with arbitrary names
        variables[key] = xarray.DataArray(array, dims=[f"d{i}__{key}" for i in range(array.ndim)])
    xarray.Dataset(variables, attrs={"Conventions": "CF-1.8"}).to_netcdf(path)


def write_json(path: Path, manifest: dict) -> None:
    path.write_text(json.dumps(manifest, indent=2))  # NaN and Infinity as words, like rs-embed


def paths(path: Path, arrays: dict) -> dict:
    names = ("npz_path", "npz_keys") if path.suffix == ".npz" else ("nc_path", "nc_variables")
    return {names[0]: f"exports/{path.name}", names[1]: sorted(arrays), "manifest_path": "as/given.json"}


@dataclass
class Combined:
    """A combined export of n ROIs.

    Attributes:
        failed: ROIs without an embedding, by model. unfetched: ROIs without pixels or embedding.
        sides: of the grids of each ROI, in cells; None for vectors. inputs: how pixels are saved:
            ``dense`` (fewer rows where some are missing), ``unplaced`` (the same without
            ``indices``), ``ragged`` (without ``indices``), ``None``.
        stage: ``done``, or the name of the model after which the run was interrupted.
    """

    n: int = 4
    models: tuple[str, ...] = ("stub_a", "stub-B")
    failed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unfetched: tuple[int, ...] = ()
    sides: tuple[int, ...] | None = None
    inputs: str | None = "dense"
    stage: str = "done"
    temporal: dict = field(default_factory=lambda: RANGE)
    suffix: str = ".npz"

    def write(self, base: Path) -> Path:
        arrays: dict[str, np.ndarray] = {}
        entries = []
        ran = self.models if self.stage == "done" else self.models[: self.models.index(self.stage) + 1]
        for label in ran:
            entries.append(self._entry(label, arrays, first=label == self.models[0]))
        statuses = {e["status"] for e in entries}
        manifest = HEAD | {
            "status": "running" if self.stage != "done" else statuses.pop() if len(statuses) == 1 else "partial",
            "stage": self.stage if self.stage == "done" else f"model:{self.stage}",
            "resume_incomplete": self.stage != "done",
            "models": entries,
            "n_items": self.n,
            "temporal": self.temporal,
            "spatials": [spatial(i) for i in range(self.n)],
            "request_fingerprint": "a" * 40,
            "prefetch": {"0123456789ab": {"sensor": SENSOR, "npz_key": "__prefetch_bchw__0123456789ab", "shape": [1]}},
        }
        if self.stage != "done":
            arrays["__prefetch_bchw__0123456789ab"] = np.zeros((self.n, 2, 8, 8), np.float32)
        path = base.with_name(base.name + self.suffix)
        save(path, arrays)
        write_json(base.with_name(base.name + ".json"), manifest | paths(path, arrays))
        return path

    def shape(self, i: int) -> tuple[int, ...]:
        return (6,) if self.sides is None else (6, self.sides[i], self.sides[i])

    def _entry(self, label: str, arrays: dict, *, first: bool) -> dict:
        key = label.replace("-", "_")
        missing = {*self.failed.get(label, ()), *self.unfetched}
        ok = [i for i in range(self.n) if i not in missing]
        status = "ok" if not missing else "partial" if ok else "failed"
        entry: dict = {"model": label, "sensor": SENSOR, "status": status, "describe": {}, "embeddings": None}
        if len(ok) == self.n and len({self.shape(i) for i in ok}) == 1:
            arrays[f"embeddings__{key}"] = whole = np.stack([vector(label, i, self.shape(i)) for i in ok])
            entry["embeddings"] = {"npz_key": f"embeddings__{key}", "shape": list(whole.shape), "dtype": "float32"}
        elif ok:
            keys = {f"embedding__{key}__{i:05d}": vector(label, i, self.shape(i)) for i in ok}
            arrays.update(keys)
            entry["embeddings"] = {"npz_keys": list(keys), "indices": ok}
        entry["inputs"] = self._inputs(arrays, reused=not first)
        # lat: NaN, which rs-embed writes for models without coordinates
        entry["metas"] = [{"model": label, "lat": float("nan"), "row": i} if i in ok else None for i in range(self.n)]
        if missing:
            entry["failed_indices"] = sorted(missing)
            entry["errors_by_index"] = {i: f"RuntimeError('{label} {i}')" for i in sorted(missing)}
        return entry

    def _inputs(self, arrays: dict, *, reused: bool) -> dict | None:
        """All models read the same pixels, stored under the name of the first one."""
        key, more = self.models[0].replace("-", "_"), {"dedup_reused": True} if reused else {}
        fetched = [i for i in range(self.n) if i not in self.unfetched]
        if self.inputs is None:
            return None
        if self.inputs == "ragged":
            keys = {f"input_chw__{key}__{i:05d}": pixels(i, 8 + i) for i in fetched}
            arrays.update(keys)
            return {"npz_keys": list(keys), **more}
        arrays[f"inputs_bchw__{key}"] = whole = np.stack([pixels(i) for i in fetched])
        entry = {"npz_key": f"inputs_bchw__{key}", "shape": list(whole.shape), "dtype": "float32", **more}
        return entry | ({"indices": fetched} if len(fetched) < self.n and self.inputs == "dense" else {})


@dataclass
class PerItem:
    """A folder with a file for each ROI.

    Attributes:
        lost: ROIs that failed as a whole: no file. failed: (label, ROI) pairs. sides: of pixels.
            names: of the files.
    """

    n: int = 4
    models: tuple[str, ...] = ("stub_a", "stub-B")
    lost: tuple[int, ...] = ()
    failed: tuple[tuple[str, int], ...] = ()
    sides: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    suffix: str = ".npz"

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(self.n):
            if i not in self.lost:
                self._item(folder / f"{self.names[i] if self.names else f'p{i:05d}'}{self.suffix}", i)
        return folder

    def _item(self, path: Path, i: int) -> None:
        arrays, entries = {}, []
        for label in self.models:
            key = label.replace("-", "_")
            entry: dict = {"model": label, "status": "ok", "sensor": SENSOR, "describe": {}, "meta": None}
            taken = pixels(i, self.sides[i] if self.sides else 8)
            first = self.models[0].replace("-", "_")
            arrays[f"input_chw__{first}"] = taken
            entry["input"] = {"npz_key": f"input_chw__{first}", "dtype": "float32", "shape": list(taken.shape)}
            entry["input"] |= {"sha1": "b" * 40, "inspection": {"histogram": [0] * 32}}
            entry["embedding"] = None
            if (label, i) in self.failed:
                entry |= {"status": "failed", "error": f"RuntimeError('{label} {i}')"}
            else:
                arrays[f"embedding__{key}"] = vector(label, i)
                entry["embedding"] = {
                    "npz_key": f"embedding__{key}",
                    "dtype": "float32",
                    "shape": [6],
                    "sha1": "c" * 40,
                }
                entry["meta"] = {"model": label, "lat": float("nan"), "row": i}
            entries.append(entry)
        failed = sum(e["status"] == "failed" for e in entries)
        manifest = HEAD | {
            "point_index": i,
            "status": "ok" if not failed else "partial" if failed < len(entries) else "failed",
            "models": entries,
            "spatial": spatial(i),
            "temporal": RANGE,
            "package_version": "0.3.1",
            "summary": {"total_models": len(entries), "failed_models": failed, "ok_models": len(entries) - failed},
            "request_fingerprint": f"{i:040d}",
        }
        save(path, arrays)
        write_json(path.with_suffix(".json"), manifest | paths(path, arrays))
