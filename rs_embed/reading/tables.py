"""An export as a table of items (pandas) and as a data set (xarray)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..planning.units import array_key
from ..request.geometry import EARTH_RADIUS_M, mercator, transformer, utm_crs

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import xarray

    from .result import ExportResult, ModelResult


# places -----------------------------------------------------------------------------------------------------------


def bounds(spatials: Sequence[Mapping], projection: str) -> np.ndarray:
    """West, south, east and north of ROIs in degrees: (N, 4) float64, NaN where a place is unknown.

    Args:
        spatials: as manifests have them. projection: of the squares round points: ``utm`` or ``web_mercator``.
    """
    import numpy as np

    out = np.full((len(spatials), 4), np.nan)
    zones: dict[str, list[int]] = {}
    for i, s in enumerate(spatials):
        if "minlon" in s:
            out[i] = s["minlon"], s["minlat"], s["maxlon"], s["maxlat"]
        elif "buffer_m" in s and projection == "utm":
            zones.setdefault(utm_crs(s["lon"], s["lat"]), []).append(i)
        elif "buffer_m" in s:
            (x, y), r = mercator(s["lon"], s["lat"]), s["buffer_m"]
            out[i] = _degrees(x - r, y - r) + _degrees(x + r, y + r)
    for crs, rows in zones.items():
        lon, lat, r = (np.array([spatials[i][k] for i in rows]) for k in ("lon", "lat", "buffer_m"))
        x, y = transformer("EPSG:4326", crs).transform(lon, lat)
        steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
        ring = [transformer(crs, "EPSG:4326").transform(x + r * i, y + r * j) for i, j in steps]
        lons, lats = (np.stack([p[k] for p in ring]) for k in (0, 1))
        out[rows] = np.stack([lons.min(0), lats.min(0), lons.max(0), lats.max(0)], axis=1)
    return out


def _degrees(x: float, y: float) -> tuple[float, float]:
    lat = 2 * math.atan(math.exp(y / EARTH_RADIUS_M)) - math.pi / 2
    return math.degrees(x / EARTH_RADIUS_M), math.degrees(lat)


def _centres(spatials: Sequence[Mapping], boxes: np.ndarray) -> np.ndarray:
    import numpy as np

    out = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2], axis=1)
    for i, s in enumerate(spatials):
        if "lon" in s:
            out[i] = s["lon"], s["lat"]
    return out


def _places(result: ExportResult) -> tuple[np.ndarray, np.ndarray]:
    boxes = bounds(result.spatials, result._manifest.get("projection", "web_mercator"))
    return boxes, _centres(result.spatials, boxes)


# pandas -----------------------------------------------------------------------------------------------------------

_OF_ROI = ("row", "name", "lon", "lat", "west", "south", "east", "north", "start", "end")
_OF_RESULT = ("status", "error", "stage", "retryable", "valid", "constant_bands", "warnings", "duplicate_of")
_TYPES = {"retryable": "boolean", "valid": "float64", "row": "int64"}
_TYPES |= dict.fromkeys(("duplicate_of", "repeats", "height", "width"), "Int64")  # texts and these have pandas.NA
_TYPES |= dict.fromkeys(("lon", "lat", "west", "south", "east", "north"), "float64")
_OF_IMAGE = ("crs", "height", "width", "fetched")


def items(result: ExportResult, per_model: bool) -> pandas.DataFrame:
    """See :meth:`rs_embed.reading.ExportResult.items`."""
    import pandas

    boxes, centres = _places(result)
    repeats = _firsts(result._manifest.get("repeated_rois"))
    columns = [*_OF_ROI, *(("model",) if per_model else ()), *_OF_RESULT, *(_OF_IMAGE if per_model else ()), "repeats"]
    data: dict[str, list] = {c: [] for c in columns}
    models = list(result.models.values())
    keys = ("quality", *(("crs", "shape", "fetched") if per_model else ()))
    every = zip(*(_results(m, keys) for m in models)) if models else ((),) * result.n_items
    places = zip(result.names, result.windows, centres.tolist(), boxes.tolist(), every)
    for row, (name, window, centre, box, found) in enumerate(places):
        window = window or {}
        of_roi = (row, name, *centre, *box, *_dates(window))
        lines = [{**f, "model": m.name} for m, f in zip(models, found)] if per_model else [_together(found)]
        for line in lines:
            line |= dict(zip(_OF_ROI, of_roi)) | {"repeats": repeats.get(row)}
            for column in columns:
                data[column].append(line.get(column))
    table = pandas.DataFrame(data)
    return table.astype({c: _TYPES.get(c, "string") for c in columns})


def _dates(window: Mapping) -> tuple[str | None, str | None]:
    if window.get("mode") == "year" and window.get("year"):
        return f"{window['year']}-01-01", f"{window['year'] + 1}-01-01"
    return window.get("start"), window.get("end")


def _firsts(groups: Any) -> dict[int, int]:
    """Every row of a group but the first, and the first."""
    return {row: group[0] for group in groups or () for row in group[1:]}


def _results(model: ModelResult, keys: Sequence[str]) -> Iterator[dict]:
    same = _firsts((model.entry.get("duplicates") or {}).get("embeddings"))
    for row, (status, said) in enumerate(zip(model.statuses(), model.meta.some(keys))):
        failure, meta = model.failures.get(row), dict(zip(keys, said))
        quality, (height, width) = meta.get("quality") or {}, meta.get("shape") or (None, None)
        yield {
            "status": status,
            "error": failure and failure.error,
            "stage": failure and failure.stage,
            "retryable": failure and failure.retryable,
            "valid": quality.get("valid"),
            "constant_bands": ", ".join(quality.get("constant_bands") or ()) or None,
            "warnings": "; ".join(quality.get("warnings") or ()) or None,
            "duplicate_of": same.get(row),
            "crs": meta.get("crs"),
            "height": height,
            "width": width,
            "fetched": meta.get("fetched"),
        }


def _together(found: Sequence[dict]) -> dict:
    """One line for the results of several models."""
    statuses = [f["status"] for f in found]
    failed = statuses.count("failed")
    status = (
        "partial" if 0 < failed < len(statuses) else "ok" if "ok" in statuses else statuses[0] if statuses else None
    )
    out: dict[str, Any] = {k: next((f[k] for f in found if f[k] is not None), None) for k in _OF_RESULT}
    warnings = dict.fromkeys(f["warnings"] for f in found if f["warnings"])
    return out | {
        "status": status,
        "valid": min((f["valid"] for f in found if f["valid"] is not None), default=None),
        "warnings": "; ".join(warnings) or None,
    }


# xarray -----------------------------------------------------------------------------------------------------------


def dataset(result: ExportResult, models: Sequence[str] | None, inputs: bool) -> xarray.Dataset:
    """See :meth:`rs_embed.reading.ExportResult.to_xarray`."""
    import xarray

    for label in models or ():
        if label not in result.models:
            known = ", ".join(map(repr, result.models))
            raise ModelError(f"models: {label!r} is not in this export; allowed: {known}")
    boxes, centres = _places(result)
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {
        "roi": result.names,
        **{k: ("roi", centres[:, i], {"units": "degrees"}) for i, k in enumerate(("lon", "lat"))},
        **{k: ("roi", boxes[:, i], {"units": "degrees"}) for i, k in enumerate(("west", "south", "east", "north"))},
    }
    for model in (result.models[m] for m in models or result.models):
        key = array_key(model.name)
        found = {"embedding": model.embeddings} | ({"input": model.inputs} if inputs else {})
        for kind, arrays in found.items():
            if arrays is None:
                continue
            array, sizes = _filled(arrays)
            dims = _dimensions(kind, key, array.ndim)
            about = {"model": model.name, "status": model.status}
            if kind == "input":
                bands = (model.entry.get("sensor") or {}).get("bands")
                if bands and len(bands) == array.shape[-3]:
                    coordinates[f"band_{key}"] = list(bands)
            variables[f"{kind}_{key}"] = (dims, array, about)
            if sizes is not None:
                variables[f"{kind}_{key}_size"] = (("roi", "height_width"), sizes, {"model": model.name})
    about = {"layout": result.layout, "status": result.status, "created_at": result.created_at or ""}
    return xarray.Dataset(variables, coordinates, about)


def _dimensions(kind: str, key: str, rank: int) -> tuple[str, ...]:
    if kind == "input":
        return ("roi", *(f"{d}_{key}" for d in ("frame", "band", "py", "px")[5 - rank :]))
    return ("roi", *(f"{d}_{key}" for d in ("dim", "y", "x")[: rank - 1]))


def _filled(arrays: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays of different heights and widths as one, filled up with NaN; their own heights and widths where they differ."""
    import numpy as np

    if isinstance(arrays, np.ndarray):
        return arrays, None
    there = [a for a in arrays if a is not None]
    shape = tuple(np.max([a.shape for a in there], axis=0))
    out = np.full((len(arrays), *shape), np.nan, np.float32)
    sizes = np.zeros((len(arrays), 2), np.int64)
    for i, a in enumerate(arrays):
        if a is not None:
            out[(i, *map(slice, a.shape))] = a
            sizes[i] = a.shape[-2:]
    return out, sizes
