"""Descriptions of models for planning, validation and the documentation; they do not require
torch.

A model family is one :class:`ModelInfo`; its options are a frozen dataclass declared with
:func:`rs_embed.request.fields.option`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..request.specs import SensorSpec, TemporalSpec
from .flops import InputShape, PassCost

#: Value of the option ``weights`` for random weights.
RANDOM = "random"


@dataclass(frozen=True)
class Frames:
    """How a window is divided into the frames of one chip.

    Attributes:
        mode: ``"composite"`` (one image over the window), ``"equal"`` (``count`` bins of equal
            length) or ``"fixed"`` (bins of ``days`` days from the start, at most ``count``, else
            ``count`` equal ones).
        count: number, or largest number, of bins.
        days: length of a fixed bin, days.
    """

    mode: str = "composite"
    count: int = 1
    days: int | None = None

    def identity(self) -> dict[str, Any]:
        """The entry for time in the identity of a source."""
        bins = {} if self.mode == "composite" else {"count": self.count, "days": self.days}
        return {"mode": self.mode, **bins}


@dataclass(frozen=True)
class Modality:
    """One kind of input of a model: its default imagery request and units of measure.

    Attributes:
        sensor: default imagery request; ``sensor.bands`` is the band order of the model.
        units: units of measure of the pixels from the provider, for example ``"DN (surface
            reflectance x 10000)"``.
    """

    sensor: SensorSpec
    units: str


@dataclass(frozen=True)
class Prep:
    """The large-ROI policy of a unit, resolved for its model.

    Attributes:
        mode: ``"native"`` (the model takes any size), ``"resize"`` (one pass), ``"tile"`` or
            ``"auto"`` (tiles for grids of up to ``max_tiles`` tiles, else one pass).
        tile_size: side of a tile, pixels.
        max_tiles, max_tiles_hard: number of tiles above which a warning is given, or an error is
            raised.
        snap: largest reduction of an axis to whole tiles, as a share of a tile.
    """

    mode: str
    tile_size: int = 0
    max_tiles: int = 64
    max_tiles_hard: int = 1024
    snap: float = 0.1


@dataclass(frozen=True)
class Weights:
    """A published weights file.

    Attributes:
        repository, revision, file: hub repository, pinned commit, and file in it.
        sha256: digest of the file; None if it is unknown (it is then recorded at first use).
    """

    repository: str
    revision: str
    file: str
    sha256: str | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The description of a model family.

    Attributes:
        id: canonical id, lower case.
        version: adapter version, increased by hand when the results change; part of every identity
            of an embedding.
        summary, citation, licence: for the documentation.
        modalities: :class:`Modality` by name; the first is the default.
        options: frozen dataclass of the options; it has ``preset`` with ``"official"`` and
            ``"rs-embed"``.
        dim: length D of a pooled vector, from the options.
        aliases: other ids.
        outputs: supported output modes.
        size: side of the input of the model in pixels, from the options; None if it accepts any
            size.
        square: the input must be square, so a box is fetched as its enclosing square and cropped
            back.
        frames: the frames of a window, from options and window.
        needs_window: ``temporal=None`` is not valid.
        weights: published file, from the options; None for models without weights.
        precisions: supported arithmetic.
        refuse: why a pixel size and a large-ROI policy do not fit the options and the modality, or
            None; from options, modality, scale_m and policy.
        canonical: the options, with those that do not change the results in a modality at their
            defaults, for the identity.
        limits: values are clipped to these before an image is scaled to whole tiles; from options,
            modality and frames.
        any_bands: accepts any bands in any order; otherwise a request has as many bands as the
            modality, in its order.
        cell: side of a cell of a grid in pixels, from the options, where the model has one: the
            last cells then have fewer pixels if it does not divide the image. None: the cells
            divide the image evenly.
        smallest: shortest side of an image that the model accepts, pixels.
        rectangle_pooling: the vector of a ROI whose image was enlarged to a square: ``"cells"``,
            the mean (or max) of the cells of the grid in the ROI, or ``"own"``, the vector of the
            model for the square (where cells have another dimension).
        vector_of_cells: whether a mean of cells is the vector that the options ask for; where not,
            a rectangle has the model's own vector whatever ``rectangle_pooling`` is.
        cost: the cost of a forward pass, from options, modality and input shape; None if it is not
            known.
        pace: rate of the network, as a share of the rate of matrix products on a device.
        batch: default number of images per forward pass, by device type.
    """

    id: str
    version: int
    summary: str
    citation: str
    licence: str
    modalities: Mapping[str, Modality]
    options: type
    dim: Callable[[Any], int]
    aliases: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("pooled", "grid")
    size: Callable[[Any], int | None] = lambda options: None
    square: bool = False
    frames: Callable[[Any, TemporalSpec | None], Frames] = lambda options, window: Frames()
    needs_window: bool = True
    weights: Callable[[Any], Weights | None] = lambda options: None
    precisions: tuple[str, ...] = ("fp32", "bf16")
    refuse: Callable[[Any, str, float, Prep], str | None] = lambda options, modality, scale_m, prep: None
    canonical: Callable[[Any, str], Any] = lambda options, modality: options
    limits: Callable[[Any, str, int], tuple[float, float] | None] = lambda options, modality, frames: None
    any_bands: bool = False
    cell: Callable[[Any], int | None] = lambda options: None
    smallest: Callable[[Any], int] = lambda options: 1
    rectangle_pooling: str = "cells"
    vector_of_cells: Callable[[Any], bool] = lambda options: True
    cost: Callable[[Any, str, InputShape], PassCost] | None = None
    pace: float = 1.0
    batch: Mapping[str, int] = field(default_factory=lambda: {"cpu": 8, "cuda": 64, "mps": 16})
