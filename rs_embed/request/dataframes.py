"""A pandas DataFrame or geopandas GeoDataFrame as rows of a ROI table. Neither package is imported
here: a caller with a frame has imported it already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SpecError
from .vector_features import COLUMNS, normalise_cell, refuse_misspelled, to_rows


def is_frame(given: Any) -> bool:
    """Whether an object has the interface of a DataFrame."""
    return all(hasattr(given, a) for a in ("columns", "iloc", "isna"))


def read_frame(frame: Any, columns: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a frame, and the location of each row for messages (``rois.iloc[3]``).

    Args:
        columns: allowed columns of a table without geometries. A GeoDataFrame may have ``name,
            buffer_m, start, end`` and its geometry.

    Raises:
        SpecError: a column occurs twice or is a misspelled column name, or a geometry is not a
            ROI.
    """
    geometries = hasattr(type(frame), "to_crs")
    known = COLUMNS if geometries else columns
    found = [str(c) for c in frame.columns]
    refuse_misspelled(found, known, "rois")
    cells = {}
    for i, column in enumerate(found):
        if column in cells:
            raise SpecError(f"rois: the column {column!r} occurs twice; allowed: each column once")
        if column in known:
            values = frame.iloc[:, i]
            cells[column] = [None if empty else v for v, empty in zip(values.tolist(), values.isna().tolist())]
    where = [f"rois.iloc[{i}]" for i in range(len(frame))]
    if geometries:
        return _read_features(frame, cells, where), where
    if not cells:
        raise SpecError(
            f"rois: the columns {', '.join(found) or '(none)'} are not those of a ROI table; allowed: {', '.join(columns)}"
        )
    return [{c: normalise_cell(c, v[i]) for c, v in cells.items()} for i in range(len(frame))], where


def _read_features(frame: Any, cells: dict[str, Any], where: list[str]) -> list[dict[str, Any]]:
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
