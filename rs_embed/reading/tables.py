"""An export as a table of items (pandas) and as a dataset (xarray)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..planning.units import array_key
from ..request.geometry import get_transformer, to_mercator, utm_crs
from ..request.specs import EARTH_RADIUS_M
from .model_result import ModelResult

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import xarray


# ROIs --------------------------------------------------------------------------------------------


@dataclass
class Rois:
    """The ROIs of an export, in order.

    Attributes:
        spatials: geometries as in manifests, empty where unknown.
        windows: as in manifests, or None.
        projection: projection of the squares around points, ``utm`` or ``web_mercator``.
    """

    names: Sequence[str]
    spatials: Sequence[Mapping[str, Any]]
    windows: Sequence[Mapping[str, Any] | None]
    projection: str

    @cached_property
    def bounds(self) -> np.ndarray:
        """(N, 4) float64, see :func:`geographic_bounds`."""
        return geographic_bounds(self.spatials, self.projection)

    @cached_property
    def centres(self) -> np.ndarray:
        """Longitude and latitude, (N, 2) float64, degrees: the point of the request, or the centre
        of the box."""
        import numpy as np

        boxes = self.bounds
        out = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2], axis=1)
        for i, s in enumerate(self.spatials):
            if "lon" in s:
                out[i] = s["lon"], s["lat"]
        return out


def geographic_bounds(spatials: Sequence[Mapping[str, Any]], projection: str) -> np.ndarray:
    """West, south, east and north of ROIs in degrees: (N, 4) float64, NaN where the geometry is
    unknown.

    Args:
        spatials: geometries as in manifests.
        projection: projection of the squares around points, ``utm`` or ``web_mercator``.
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
            (x, y), r = to_mercator(s["lon"], s["lat"]), s["buffer_m"]
            out[i] = _mercator_to_degrees(x - r, y - r) + _mercator_to_degrees(x + r, y + r)
    for crs, rows in zones.items():
        lon, lat, r = (np.array([spatials[i][k] for i in rows]) for k in ("lon", "lat", "buffer_m"))
        x, y = get_transformer("EPSG:4326", crs).transform(lon, lat)
        steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
        ring = [get_transformer(crs, "EPSG:4326").transform(x + r * i, y + r * j) for i, j in steps]
        lons, lats = (np.stack([p[k] for p in ring]) for k in (0, 1))
        out[rows] = np.stack([lons.min(0), lats.min(0), lons.max(0), lats.max(0)], axis=1)
    return out


def _mercator_to_degrees(x: float, y: float) -> tuple[float, float]:
    lat = 2 * math.atan(math.exp(y / EARTH_RADIUS_M)) - math.pi / 2
    return math.degrees(x / EARTH_RADIUS_M), math.degrees(lat)


# pandas ------------------------------------------------------------------------------------------

_ROI_COLUMNS = ("row", "name", "lon", "lat", "west", "south", "east", "north", "start", "end")
_RESULT_COLUMNS = ("status", "error", "stage", "retryable", "valid")
#: Columns of a list, which becomes one text, with the separator.
_QUALITY_COLUMNS = {"constant_bands": ", ", "warnings": "; ", "warning_kinds": ", "}
_DTYPES = {"retryable": "boolean", "valid": "float64", "row": "int64"}
_DTYPES |= dict.fromkeys(("duplicate_of", "repeats", "height", "width"), "Int64")  # with pandas.NA, like strings
_DTYPES |= dict.fromkeys(("lon", "lat", "west", "south", "east", "north"), "float64")
_IMAGE_COLUMNS = ("crs", "height", "width", "fetched")


def build_items_table(
    rois: Rois, models: Sequence[ModelResult], repeated: Iterable[Sequence[int]] | None, *, per_model: bool
) -> pandas.DataFrame:
    """See :meth:`rs_embed.reading.ExportResult.items`.

    Args:
        repeated: groups of rows that request the same ROI.
    """
    import pandas

    repeats = _first_of_group(repeated)
    model_columns = (("model",), _IMAGE_COLUMNS) if per_model else ((), ())
    results_of = (*_RESULT_COLUMNS, *_QUALITY_COLUMNS, "duplicate_of")
    columns = [*_ROI_COLUMNS, *model_columns[0], *results_of, *model_columns[1], "repeats"]
    data: dict[str, list[Any]] = {c: [] for c in columns}
    keys = ("quality", *(("crs", "shape", "fetched") if per_model else ()))
    all_results = zip(*(_iter_results(m, keys) for m in models)) if models else itertools.repeat(())
    values = zip(rois.names, rois.windows, rois.centres.tolist(), rois.bounds.tolist(), all_results)
    for row, (name, window, centre, box, results) in enumerate(values):
        roi = dict(zip(_ROI_COLUMNS, (row, name, *centre, *box, *_window_dates(window or {}))))
        lines = [{**f, "model": m.name} for m, f in zip(models, results)] if per_model else [_merge_results(results)]
        for line in lines:
            line |= roi | {"repeats": repeats.get(row)}
            line |= {k: separator.join(line[k]) or None for k, separator in _QUALITY_COLUMNS.items()}
            for column in columns:
                data[column].append(line.get(column))
    table = pandas.DataFrame(data)
    return table.astype({c: _DTYPES.get(c, "string") for c in columns})


def _window_dates(window: Mapping[str, Any]) -> tuple[str | None, str | None]:
    if window.get("mode") == "year" and window.get("year"):
        return f"{window['year']}-01-01", f"{window['year'] + 1}-01-01"
    return window.get("start"), window.get("end")


def _first_of_group(groups: Iterable[Sequence[int]] | None) -> dict[int, int]:
    """The first row of a group, by each other row of it."""
    return {row: group[0] for group in groups or () for row in group[1:]}


def _iter_results(model: ModelResult, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The columns of each ROI that come from a model."""
    duplicates = _first_of_group((model.entry.get("duplicates") or {}).get("embeddings"))
    for row, (status, values) in enumerate(zip(model.statuses(), model.meta.select(keys))):
        failure, meta = model.failures.get(row), dict(zip(keys, values))
        quality, (height, width) = meta.get("quality") or {}, meta.get("shape") or (None, None)
        yield {
            "status": status,
            "error": failure and failure.error,
            "stage": failure and failure.stage,
            "retryable": failure and failure.retryable,
            "valid": quality.get("valid"),
            "constant_bands": quality.get("constant_bands") or (),
            "warnings": quality.get("warnings") or (),
            "warning_kinds": quality.get("kinds") or (),
            "duplicate_of": duplicates.get(row),
            "crs": meta.get("crs"),
            "height": height,
            "width": width,
            "fetched": meta.get("fetched"),
        }


def _merge_results(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line from the results of several models."""
    statuses = [f["status"] for f in results]
    failed = statuses.count("failed")
    status = (
        "partial" if 0 < failed < len(statuses) else "ok" if "ok" in statuses else statuses[0] if statuses else None
    )
    columns = (*_RESULT_COLUMNS, "duplicate_of")
    out: dict[str, Any] = {k: next((f[k] for f in results if f[k] is not None), None) for k in columns}
    # each band, sentence and kind once
    out |= {k: tuple(dict.fromkeys(value for f in results for value in f[k])) for k in _QUALITY_COLUMNS}
    lowest = min((f["valid"] for f in results if f["valid"] is not None), default=None)
    return out | {"status": status, "valid": lowest}


# xarray ------------------------------------------------------------------------------------------


def build_dataset(
    rois: Rois, models: Sequence[ModelResult], attributes: Mapping[str, str], *, inputs: bool
) -> xarray.Dataset:
    """See :meth:`rs_embed.reading.ExportResult.to_xarray`."""
    import xarray

    boxes, centres = rois.bounds, rois.centres
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {
        "roi": rois.names,
        **{k: ("roi", centres[:, i], {"units": "degrees"}) for i, k in enumerate(("lon", "lat"))},
        **{k: ("roi", boxes[:, i], {"units": "degrees"}) for i, k in enumerate(("west", "south", "east", "north"))},
    }
    for model in models:
        key = array_key(model.name)
        arrays_of_kind = {"embedding": model.embeddings} | ({"input": model.inputs} if inputs else {})
        for kind, arrays in arrays_of_kind.items():
            if arrays is None:
                continue
            array, sizes = _pad_to_common_size(arrays)
            if kind == "input":
                bands = (model.entry.get("sensor") or {}).get("bands")
                if bands and len(bands) == array.shape[-3]:
                    coordinates[f"band_{key}"] = list(bands)
            model_attributes = {"model": model.name, "status": model.status}
            variables[f"{kind}_{key}"] = (_dimension_names(kind, key, array.ndim), array, model_attributes)
            if sizes is not None:
                variables[f"{kind}_{key}_size"] = (("roi", "height_width"), sizes, {"model": model.name})
    return xarray.Dataset(variables, coordinates, attributes)


def _dimension_names(kind: str, key: str, rank: int) -> tuple[str, ...]:
    if kind == "input":
        return ("roi", *(f"{d}_{key}" for d in ("frame", "band", "py", "px")[5 - rank :]))
    return ("roi", *(f"{d}_{key}" for d in ("dim", "y", "x")[: rank - 1]))


def _pad_to_common_size(arrays: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays of different heights and widths as one, padded with NaN.

    Returns:
        The padded array, and (N, 2) int64 heights and widths; None where all have the same size.
    """
    import numpy as np

    if isinstance(arrays, np.ndarray):
        return arrays, None
    shape = tuple(np.max([a.shape for a in arrays if a is not None], axis=0))
    out = np.full((len(arrays), *shape), np.nan, np.float32)
    sizes = np.zeros((len(arrays), 2), np.int64)
    for i, a in enumerate(arrays):
        if a is not None:
            out[i][tuple(slice(n) for n in a.shape)] = a
            sizes[i] = a.shape[-2:]
    return out, sizes
