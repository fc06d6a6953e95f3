"""One run: a plan with its folders, store, provider and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError
from ..models import get_model_info
from ..planning.plan import Plan
from ..planning.units import Generation, Source, Unit
from ..providers import Provider, Roi
from ..request import rois as table
from ..request.geometry import Grid, make_grid
from ..request.request import Request
from ..store.store import Store
from ..weights.checkpoints import Checkpoint, Digests, locate_weights


@dataclass(frozen=True)
class Run:
    """A planned run.

    Attributes:
        plan: the sources, units, parts, chunks and files of the run.
        dir: the run's folder. work: the work folder. store: fetched pixels and embeddings.
        provider: where pixels come from.
        generation: tokens of the last ``resume=False``.
        digests: of local weights files.
        rows: ROI rows of the frozen table, for a run loaded from its folder.
    """

    plan: Plan
    dir: Path
    work: Path
    store: Store
    provider: Provider
    generation: Generation
    digests: Digests
    rows: tuple[Mapping, ...] | None = None

    @property
    def request(self) -> Request:
        return self.plan.request

    def roi(self, index: int) -> Roi:
        """The ROI of a row of the table."""
        name = self.plan.names[index]
        spatial = table.parse_spatial(self.rows[index], f"ROI {name}") if self.rows else self.request.spatials[index]
        return Roi(index, self.plan.roi_ids[index], name, spatial, self.request.window(index))

    def checkpoint(self, unit: Unit, *, download: bool = False) -> Checkpoint | None:
        """The weights of a unit, checked.

        Args:
            download: the published file, where it is not in the hub's cache: at a start, not in
                its jobs.

        Raises:
            ModelError: the file is missing, or differs from the one at the start of the run.
        """
        return locate_weights(
            get_model_info(unit.model).weights(unit.options),
            getattr(unit.options, "weights", None),
            getattr(unit.options, "seed", 0),
            digests=self.digests,
            records=self.store.root / "weights",
            download=download,
        )

    def grid(self, source: Source, roi: Roi) -> Grid:
        """The pixel grid of a ROI in a source.

        Raises:
            SpecError: the ROI has no grid; names the ROI.
        """
        return roi_grid(source, roi)


def roi_grid(source: Source, roi: Roi) -> Grid:
    """The pixel grid of a ROI in a source, before a run is opened; see :meth:`Run.grid`."""
    try:
        return make_grid(roi.spatial, source.identity["projection"], source.scale_m, square=source.identity["square"])
    except SpecError as error:
        raise SpecError(f"ROI {roi.name!r}: {str(error).removeprefix('ROI: ')}") from None
