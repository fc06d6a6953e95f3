"""What a provider of imagery is: pixels in, on the plan's grid, with where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..geometry import Grid
from ..specs import SpatialSpec, TemporalSpec

if TYPE_CHECKING:
    import numpy as np

    from ..units import Source


@dataclass(frozen=True)
class Roi:
    """A place as stages and providers see it.

    Attributes:
        index: row in the ROI table.
        id: identity of geometry and window.
        name: name in messages and files.
        spatial: geometry. temporal: window, or None.
    """

    index: int
    id: str
    name: str
    spatial: SpatialSpec
    temporal: TemporalSpec | None


@dataclass(frozen=True)
class Chip:
    """Pixels of one ROI.

    Attributes:
        pixels: (C, H, W), or (T, C, H, W) for several frames; the collection's dtype and units; row-major, north-up.
        valid: share of pixels with data, 0..1. 0 means there is no imagery: an answer, not an error.
        dates: ISO date of each frame (of the window's midpoint for a composite), T entries; empty if unknown.
        provenance: scenes, dates, request, and whatever else says where the pixels came from (JSON values).
    """

    pixels: np.ndarray
    valid: float
    dates: tuple[str, ...]
    provenance: dict


class Provider(Protocol):
    """A source of imagery. Raises :class:`~rs_embed.errors.ProviderError`, which says whether a retry can help."""

    name: str

    def identity(self) -> dict:
        """What of the provider and its endpoint changes the pixels; has the key ``name``."""
        ...

    def check(self, sources: Sequence[Source], rois: Sequence[Roi]) -> None:
        """Refuse, before anything runs, what can be known to fail: ``SpecError`` naming the ROI, or ``ProviderError``."""
        ...

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Pixels of these bands, in this order, on this grid. May be called from several threads at once."""
        ...
