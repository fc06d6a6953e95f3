"""What a writer gets with arrays: model and kind, ROIs, grids, dates, units of measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

#: Affine of a grid: (a, b, c, d, e, f), x = a*col + b*row + c, y = d*col + e*row + f, metres.
Affine = Sequence[float]


class Row(NamedTuple):
    """The array of one ROI with its grid.

    Attributes:
        array: without the axis of ROIs.
        crs, affine: of the pixels, or of the cells of a grid of embeddings; None for vectors.
        dates: ISO date of each frame of pixels, earliest first; empty where unknown.
    """

    array: np.ndarray
    crs: str | None = None
    affine: Affine | None = None
    dates: Sequence[str] = ()


@dataclass(frozen=True)
class ArrayMetadata:
    """One array of a file.

    Attributes:
        key: its name in the file.
        kind: ``input``, ``embedding`` or ``model_input:<tensor>``.
        model: the model's part of array names.
        label: the model's label, for users.
        roi: index of the ROI if each ROI has a separate array in a combined file, else None.
        bands, units: names of the bands and unit of measure of pixels; None where unknown.
    """

    key: str
    kind: str
    model: str
    label: str
    roi: int | None = None
    bands: tuple[str, ...] | None = None
    units: str | None = None


@dataclass(frozen=True)
class RoiCoordinates:
    """The ROIs of a file, in order.

    Attributes:
        names, ids: names and identities.
        centres: (N, 2) float64, lon and lat, degrees.
        bounds: (N, 4) float64, west, south, east, north, degrees.
        windows: (start, end) ISO dates, end excluded; None for a ROI without a window.
    """

    names: Sequence[str]
    ids: Sequence[str]
    centres: np.ndarray
    bounds: np.ndarray
    windows: Sequence[tuple[str, str] | None]


@dataclass(frozen=True)
class FileMetadata:
    """Metadata of a file.

    Attributes:
        rois: its ROIs.
        single: the file of one ROI, whose arrays have no axis of ROIs.
        attributes: global attributes, name to text.
    """

    rois: RoiCoordinates
    single: bool
    attributes: Mapping[str, str] = field(default_factory=dict)
