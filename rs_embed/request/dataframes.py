"""A pandas DataFrame or geopandas GeoDataFrame as rows of a ROI table. Neither package is imported: who has a frame has
it already, and who has none needs neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SpecError
from .vector_features import COLUMNS, cell, refuse_mistaken, to_rows


def is_frame(given: Any) -> bool:
    """It has the columns and rows of a DataFrame."""
    return all(hasattr(given, a) for a in ("columns", "iloc", "isna"))


def read(frame: Any, columns: Sequence[str]) -> tuple[list[dict], list[str]]:
    """Rows of a frame, and where each comes from (``rois.iloc[3]``).

    Args:
        columns: of a table without geometries. A GeoDataFrame has ``name, buffer_m, start, end`` beside its geometry.

    Raises:
        SpecError: a column that is there twice or nearly is one of ours, or a geometry that is no ROI.
    """
    geometries = hasattr(type(frame), "to_crs")
    known = COLUMNS if geometries else columns
    found = [str(c) for c in frame.columns]
    refuse_mistaken(found, known, "rois")
    cells = {}
    for i, column in enumerate(found):
        if column in cells:
            raise SpecError(f"rois: the column {column!r} is there twice; allowed: each column once")
        if column in known:
            values = frame.iloc[:, i]
            cells[column] = [None if empty else v for v, empty in zip(values.tolist(), values.isna().tolist())]
    where = [f"rois.iloc[{i}]" for i in range(len(frame))]
    if geometries:
        return _features(frame, cells, where), where
    if not cells:
        raise SpecError(f"rois: the columns {', '.join(found) or '(none)'} are not ours; allowed: {', '.join(columns)}")
    return [{c: cell(c, v[i]) for c, v in cells.items()} for i in range(len(frame))], where


def _features(frame: Any, cells: dict, where: list[str]) -> list[dict]:
    try:
        series = frame.geometry
    except AttributeError:
        raise SpecError(
            "rois: the GeoDataFrame has no active geometry; allowed: one after set_geometry(column)"
        ) from None
    empty = (series.is_empty | series.isna()).tolist()
    kinds = [None if nothing else kind for kind, nothing in zip(series.geom_type.tolist(), empty)]
    crs = series.crs and series.crs.to_string()
    return to_rows(kinds, series.bounds.to_numpy().tolist(), crs, cells, "rois: the GeoDataFrame", where)
