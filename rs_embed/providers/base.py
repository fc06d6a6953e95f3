"""The protocol of a provider of imagery: pixels on the plan's grid, with their provenance."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..request.geometry import Grid
from ..request.specs import SpatialSpec, TemporalSpec

if TYPE_CHECKING:
    import numpy as np

    from ..planning.units import Source


@dataclass(frozen=True)
class Roi:
    """One ROI as stages and providers see it.

    Attributes:
        index: row in the ROI table.
        id: identity of geometry and window.
        name: name in messages and files.
        spatial: geometry. temporal: its window, or None.
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
        pixels: (C, H, W), or (T, C, H, W) for several frames; the collection's dtype and units of
            measure; row-major, north-up.
        coverage: share of values with data, 0..1, of each band. 0 in all bands means that there is
            no imagery: a result, not an error. By band, like ``band_warnings``, because another
            model of a run may read these bands together with others.
        dates: ISO date of each frame, T entries: of its images if they are of one day, else the
            middle of its part of the window; empty if unknown.
        provenance: scenes, dates, request, and whatever else describes where the pixels came from
            (JSON values).
        date_is: for each of ``dates``: ``"acquisition"`` (all images of the frame are of this
            day), ``"bin_middle"`` (the middle of the frame's part of the window), or
            ``"window_middle"`` (of the whole window, whose composite stands in); () where unknown.
        band_warnings: sentences about each band for the quality record, for example about a frame
            without imagery.
    """

    pixels: np.ndarray
    coverage: tuple[float, ...]
    dates: tuple[str, ...]
    provenance: dict
    band_warnings: tuple[tuple[str, ...], ...] = ()
    date_is: tuple[str, ...] = ()

    @property
    def valid(self) -> float:
        """Share of values with data over all bands."""
        return sum(self.coverage) / len(self.coverage)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences about any band, without duplicates."""
        return tuple(dict.fromkeys(s for band in self.band_warnings for s in band))


@dataclass(frozen=True)
class FetchCost:
    """Upper limits of what fetching a chip costs, as far as they are known before its images are.

    Attributes:
        requests: for pixels; None where the number depends on the files.
        itemsize: bytes of one value of the chip.
        sent: bytes that a service sends, uncompressed; None where they depend on the files.
    """

    requests: int | None
    itemsize: int
    sent: int | None


class Provider(Protocol):
    """A provider of imagery. Raises :class:`~rs_embed.errors.ProviderError`, which tells whether a
    retry can help."""

    name: str
    #: What :meth:`freeze` returns (mappings by key) is valid for every run whose provider has the
    #: same identity.
    shared: bool
    #: CPU cores that a fetch job keeps busy: 0 where it waits for a service, so that models
    #: compute meanwhile.
    cores: int
    #: Requests of a fetch job in addition to those for pixels.
    lookups: int

    def identity(self) -> dict:
        """Properties of the provider and its endpoint that change all pixels; has the key
        ``name``."""
        ...

    def backend(self, folder: str) -> str:
        """The ``backend`` string of this provider for jobs in ``folder``: paths in it are relative
        to that folder."""
        ...

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Check a request before anything runs.

        Args:
            strict: False where a ROI without imagery becomes a ``no_data`` row instead of an
                error.

        Returns:
            for every ROI, a digest of what else decides its pixels (the files that contain them);
            None if nothing does.

        Raises:
            SpecError, ProviderError: failures that can be known in advance, naming the ROI.
        """
        ...

    def freeze(self) -> dict | None:
        """What jobs need of the results of :meth:`resolve`, as JSON values; None if nothing."""
        ...

    def request_slots(self, workers: int) -> AbstractContextManager:
        """A context that every thread of a job enters while it fetches and stores a chip. It
        admits ``workers`` threads at a time, and over all jobs of the run no more than the limit
        of requests in flight to the service."""
        ...

    def look_up(self, source: Source, wanted: Sequence[tuple[Roi, Grid]], slots: AbstractContextManager) -> None:
        """Look up metadata of all ROIs that are about to be fetched, together where possible.
        Failures that concern one ROI are raised by :meth:`fetch`.

        Args:
            slots: from :meth:`request_slots`, to be entered for every request.

        Raises:
            ProviderError: nothing could be looked up; fetching may still succeed.
        """
        ...

    def fetch_cost(self, source: Source, bands: Sequence[str], height: int, width: int) -> FetchCost:
        """Cost of a chip of these bands and this size; makes no request after :meth:`resolve`."""
        ...

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Pixels of these bands, in this order, on this grid. May be called from several threads
        at once."""
        ...
