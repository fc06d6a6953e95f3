"""What a provider of imagery is: pixels in, on the plan's grid, with where they came from."""

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
    """A place as stages and providers see it.

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
        pixels: (C, H, W), or (T, C, H, W) for several frames; the collection's dtype and units; row-major, north-up.
        coverage: share of values with data, 0..1, of each band. 0 in all of them means there is no imagery: an answer, not an
            error. By band, like ``said``, because another model of a run may read these bands together with others.
        dates: ISO date of each frame (of the window's midpoint for a composite), T entries; empty if unknown.
        provenance: scenes, dates, request, and whatever else says where the pixels came from (JSON values).
        said: sentences about each band for the quality record, for example about a frame without imagery of its own.
    """

    pixels: np.ndarray
    coverage: tuple[float, ...]
    dates: tuple[str, ...]
    provenance: dict
    said: tuple[tuple[str, ...], ...] = ()

    @property
    def valid(self) -> float:
        """Share of values with data over all bands."""
        return sum(self.coverage) / len(self.coverage)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences about any band, each once."""
        return tuple(dict.fromkeys(s for band in self.said for s in band))


@dataclass(frozen=True)
class Asked:
    """What fetching a chip takes at most, as far as it can be said before its images are known.

    Attributes:
        requests: for pixels; None where it depends on the files.
        itemsize: bytes of a number of the chip.
        sent: bytes that a service sends, uncompressed; None where it depends on the files.
    """

    requests: int | None
    itemsize: int
    sent: int | None


class Provider(Protocol):
    """A source of imagery. Raises :class:`~rs_embed.errors.ProviderError`, which says whether a retry can help."""

    name: str
    #: What :meth:`freeze` says (mappings by key) holds for every run whose provider has the same identity.
    shared: bool
    #: CPU cores that a fetch job keeps busy: 0 where it waits for a service, so that models compute meanwhile.
    cores: int
    #: Requests of a fetch job beside those for pixels.
    lookups: int

    def identity(self) -> dict:
        """What of the provider and its endpoint changes all pixels; has the key ``name``."""
        ...

    def backend(self, folder: str) -> str:
        """The ``backend`` string that means this provider for jobs in ``folder``: paths in it are relative to it."""
        ...

    def resolve(
        self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool
    ) -> Sequence[str] | None:
        """Look at a request before anything runs.

        Args:
            strict: False where a ROI without imagery is to become a ``no_data`` row rather than an error.

        Returns:
            for every ROI, a digest of what else decides its pixels (the files that hold them); None if nothing does.

        Raises:
            SpecError, ProviderError: what can be known to fail, naming the ROI.
        """
        ...

    def freeze(self) -> dict | None:
        """What jobs need to know of what :meth:`resolve` found, as JSON values; None if nothing."""
        ...

    def turns(self, workers: int) -> AbstractContextManager:
        """Entered by every thread of a job while it fetches a chip and stores it: lets in ``workers`` of them at a time, and
        of all jobs of the run no more than the service is to be asked at a time."""
        ...

    def expect(self, source: Source, wanted: Sequence[tuple[Roi, Grid]], turns: AbstractContextManager) -> None:
        """These places are about to be fetched: what can be looked up for all of them together is. What fails for a place
        alone is left to :meth:`fetch`.

        Args:
            turns: of :meth:`turns`, to be entered for every request.

        Raises:
            ProviderError: nothing could be looked up; fetching may still succeed.
        """
        ...

    def asked(self, source: Source, bands: Sequence[str], height: int, width: int) -> Asked:
        """What a chip of these bands and this size takes; after :meth:`resolve`, asks nobody."""
        ...

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """Pixels of these bands, in this order, on this grid. May be called from several threads at once."""
        ...
