"""ROI tables: CSV files, inline rows of the config, vector files (``vector_features.py``) and data
frames (``dataframes.py``).

Columns: ``name`` (optional) with ``lon, lat, buffer_m`` for points or ``minlon, minlat, maxlon,
maxlat`` for boxes; a table may contain both, with empty cells in the columns of the other kind.
``start, end`` (optional) are the window of the ROI. The table of a run (``format_rois`` with ids)
also has the column ``id``, so that a job can plan without validating thousands of rows again.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import SpecError
from . import dataframes, vector_features
from .fields import describe_bad_column
from .identity import digest
from .specs import BBox, PointBuffer, SpatialSpec, TemporalSpec

POINT = ("lon", "lat", "buffer_m")
BOX = ("minlon", "minlat", "maxlon", "maxlat")
WINDOW = ("start", "end")
COLUMNS = ("name", *POINT, *BOX, *WINDOW)


class RoiTable(NamedTuple):
    """ROIs in table order.

    Attributes:
        spatials: geometries.
        names: one name per ROI, or None if the table has no names.
        windows: the window of each ROI, None for a ROI without one; None if no ROI has a window.
    """

    spatials: list[SpatialSpec]
    names: list[str] | None = None
    windows: list[TemporalSpec | None] | None = None


def roi_id(spatial: SpatialSpec, temporal: TemporalSpec | None) -> str:
    """Identity of a geometry and a window: 32 hex characters, independent of name, order and
    spelling of the window."""
    window = None if temporal is None else [temporal.start, temporal.end]
    return digest({"geometry": spatial_cells(spatial), "window": window})


_ALLOWED = "a .csv, .geojson, .json or .gpkg table, or a list of rows"


def read_rois(given: Any, base: str) -> RoiTable:
    """The ROIs of the config key ``rois`` or of ``export_batch(rois=...)``.

    Args:
        given: a path (relative to ``base``), a list of mappings, a DataFrame or a GeoDataFrame.

    Raises:
        SpecError: the table does not exist, has an unknown column, or a row is not a ROI (with its
            line).
    """
    inline = False
    if isinstance(given, (str, os.PathLike)):
        rows, where = _read_file(os.fspath(given), base)
    elif dataframes.is_frame(given):
        rows, where = dataframes.read_frame(given, COLUMNS)
    elif isinstance(given, Sequence) and not isinstance(given, bytes):
        inline = True
        rows, where = list(given), [f"rois[{i}]" for i in range(len(given))]
    else:
        shown = repr(given) if isinstance(given, (bool, int, float)) else f"a {type(given).__name__}"
        raise SpecError(f"rois: {shown} is not valid; allowed: {_ALLOWED}, or a DataFrame or GeoDataFrame in Python")
    if not rows and not inline:
        shown = repr(os.fspath(given)) if isinstance(given, (str, os.PathLike)) else "the table"
        raise SpecError(f"rois: {shown} is empty; allowed: a table with at least one row")
    spatials = [parse_spatial(row, at) for row, at in zip(rows, where)]
    if inline:
        _refuse_blanks(rows, where)
    named = [_cell(row, "name") not in (None, "") for row in rows]
    if any(named) and not all(named):
        raise SpecError(f"{where[named.index(False)]}: the name is missing; allowed: a name in every row, or in none")
    windows = [parse_window(row, at) for row, at in zip(rows, where)]
    return RoiTable(
        spatials,
        [str(row["name"]).strip() for row in rows] if rows and all(named) else None,
        windows if any(windows) else None,
    )


def _read_file(given: str, base: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a table file, and the location of each row for messages."""
    path = os.path.join(base, os.path.expanduser(given))
    if not path.lower().endswith(".csv") and not vector_features.is_vector(path):
        raise SpecError(f"rois: {given!r} is not valid; allowed: {_ALLOWED}")
    if not os.path.isfile(path):
        raise SpecError(f"rois: {given!r} does not exist (looked for {path}); allowed: {_ALLOWED}")
    if vector_features.is_vector(path):
        return vector_features.read_vector_file(path, given)
    numbered = list(read_table(path))
    return [row for _, row in numbered], [f"rois: {given} line {n}" for n, _ in numbered]


def _refuse_blanks(rows: Sequence[Mapping[str, Any]], where: Sequence[str]) -> None:
    """Raise :class:`SpecError` for an empty text in an inline row (an empty cell of a table file
    means no value)."""
    for at, row in zip(where, rows):
        for key in ("name", *WINDOW):
            if row.get(key) == "":
                what = "a name" if key == "name" else "a date YYYY-MM-DD"
                raise SpecError(f"{at}: {key}: '' is not valid; allowed: {what}, or no key {key!r}")


def read_table(path: str) -> Iterable[tuple[int, dict[str, str]]]:
    """Rows of a CSV table as (line number, mapping), without blank lines."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [c.strip() for c in reader.fieldnames or []]
            _check_header(path, header)
            reader.fieldnames = header
            for row in reader:
                if None in row:
                    raise SpecError(
                        f"rois: {path} line {reader.line_num}: {row[None]!r} is more cells than columns; "
                        f"allowed: {len(header)} cells"
                    )
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise SpecError(f"rois: {path} is not UTF-8 ({error.reason} at byte {error.start}); allowed: UTF-8") from None
    except OSError as error:
        raise SpecError(f"rois: {path} cannot be read: {error.strerror}; allowed: a table that can be read") from None
    except csv.Error as error:
        raise SpecError(f"rois: {path} is not a CSV table ({error}); allowed: comma-separated values") from None


def _check_header(path: str, header: list[str]) -> None:
    what = describe_bad_column(header, (*COLUMNS, "id"))
    if not what and not (set(POINT) <= set(header) or set(BOX) <= set(header)):
        what = f"the columns {', '.join(header) or '(none)'} are not enough"
    if what:
        allowed = f"name, {', '.join(POINT)} or name, {', '.join(BOX)}, and start, end"
        raise SpecError(f"rois: {path}: {what}; allowed: {allowed}")


def _cell(row: Mapping[str, Any], key: str) -> Any:
    value = row.get(key) if isinstance(row, Mapping) else None
    return value.strip() if isinstance(value, str) else value


def parse_spatial(row: Any, where: str) -> SpatialSpec:
    """The ROI of one row; the message of a :class:`SpecError` begins with ``where``."""
    if not isinstance(row, Mapping):
        raise SpecError(
            f"{where}: {row!r} is not valid; allowed: a mapping with {', '.join(POINT)} or {', '.join(BOX)}"
        )
    unknown = [k for k in row if k not in (*COLUMNS, "id")]
    if unknown:
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(COLUMNS)}")
    given = {k: _cell(row, k) for k in (*POINT, *BOX) if _cell(row, k) not in (None, "")}
    for cls, keys in ((PointBuffer, POINT), (BBox, BOX)):
        if set(given) == set(keys):
            numbers: dict[str, Any] = {k: _number(given[k], f"{where}: {k}") for k in keys}
            try:
                return cls(**numbers)
            except SpecError as error:
                raise SpecError(f"{where}: {error}") from None
    raise SpecError(f"{where}: {given or 'nothing'} is not a ROI; allowed: {', '.join(POINT)} or {', '.join(BOX)}")


def is_box(row: Mapping[str, Any]) -> bool:
    """Whether a row of a validated table is a box, and not a point."""
    return _cell(row, BOX[0]) not in (None, "")


def parse_window(row: Mapping[str, Any], where: str) -> TemporalSpec | None:
    """The window of one row, or None; the message of a :class:`SpecError` begins with
    ``where``."""
    given = {k: _cell(row, k) for k in WINDOW}
    missing = [k for k in WINDOW if given[k] in (None, "")]
    if len(missing) == 2:
        return None
    if missing:
        raise SpecError(f"{where}: {missing[0]} is missing; allowed: start and end together, or neither")
    try:
        return TemporalSpec.range(**given)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def parse_windows(rows: Sequence[Mapping[str, Any]]) -> tuple[TemporalSpec | None, ...] | None:
    """The windows of a validated table, None if no row has a window; rows with the same dates
    share one object."""
    dates = [(row.get("start"), row.get("end")) for row in rows]
    parsed = {pair: parse_window(dict(zip(WINDOW, pair)), "rois") for pair in set(dates)}
    return tuple(parsed[pair] for pair in dates) if any(parsed.values()) else None


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"{where}: {value!r} is not valid; allowed: a number") from None


def spatial_cells(spatial: SpatialSpec) -> dict[str, float]:
    """The cells of a ROI in a table, without its name."""
    return {k: getattr(spatial, k) for k in (POINT if isinstance(spatial, PointBuffer) else BOX)}


def format_rois(
    spatials: Sequence[SpatialSpec],
    names: Sequence[str],
    ids: Sequence[str] | None = None,
    windows: Sequence[TemporalSpec | None] | None = None,
) -> str:
    """A CSV table that :func:`read_rois` reads back exactly; floats in their shortest exact
    form."""
    kinds = {type(s) for s in spatials}
    columns = ["name", *(POINT if PointBuffer in kinds else ()), *(BOX if BBox in kinds else ())]
    columns += [*(WINDOW if windows else ()), *(["id"] if ids else ())]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for i, (spatial, name) in enumerate(zip(spatials, names)):
        cells = {"name": name, **spatial_cells(spatial)} | ({"id": ids[i]} if ids else {})
        if windows and windows[i]:
            cells |= {k: getattr(windows[i], k) for k in WINDOW}
        writer.writerow(cells)
    return file.getvalue()
