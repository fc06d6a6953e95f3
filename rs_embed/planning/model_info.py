"""What a model says about itself, without importing torch: the plan, the checks and the docs need no more.

A family is one :class:`ModelInfo`; its options are a frozen dataclass declared with :func:`rs_embed.request.fields.option`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..request.specs import SensorSpec, TemporalSpec
from .flops import Pass, Picture

#: Units of Sentinel-1's numbers.
LINEAR, DECIBEL = "linear power", "dB"
#: Collections of one product in different units (Earth Engine's description of both).
UNITS = {"COPERNICUS/S1_GRD": DECIBEL, "COPERNICUS/S1_GRD_FLOAT": LINEAR}

#: Value of the option ``weights`` for random weights.
RANDOM = "random"


@dataclass(frozen=True)
class Frames:
    """How a window becomes the frames of one chip.

    Attributes:
        mode: ``"composite"`` (one image over the window), ``"equal"`` (``count`` bins of equal length) or
            ``"fixed"`` (bins of ``days`` days from the start, at most ``count``, else ``count`` equal ones).
        count: number, or largest number, of bins.
        days: length of a fixed bin, days.
    """

    mode: str = "composite"
    count: int = 1
    days: int | None = None

    def identity(self) -> dict:
        """The part of a source's identity that says how time is treated."""
        return (
            {"mode": self.mode}
            if self.mode == "composite"
            else {"mode": self.mode, "count": self.count, "days": self.days}
        )


@dataclass(frozen=True)
class Modality:
    """One kind of input of a model: its default imagery request and what the numbers in it mean.

    Attributes:
        sensor: default request; ``sensor.bands`` is the order the model receives.
        units: units of the pixels the provider must deliver, for example ``"DN (surface reflectance x 10000)"``.
    """

    sensor: SensorSpec
    units: str


@dataclass(frozen=True)
class Prep:
    """The large-image policy of a unit, resolved for its model.

    Attributes:
        mode: ``"native"`` (the model takes any size), ``"resize"`` (one pass), ``"tile"`` or ``"auto"`` (tiles for grids of up
            to ``max_tiles`` tiles, else one pass).
        tile_size: side of a tile, pixels.
        max_tiles, max_tiles_hard: number of tiles that is worth a warning, or refused.
        snap: how far an axis may be scaled down to whole tiles, share of a tile.
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
        sha256: digest of the file, or None where it is not known yet (then it is recorded at first use).
    """

    repository: str
    revision: str
    file: str
    sha256: str | None = None


def _composite(options: Any, window: TemporalSpec | None) -> Frames:
    return Frames()


def _any_size(options: Any) -> int | None:
    return None


def _no_weights(options: Any) -> Weights | None:
    return None


@dataclass(frozen=True)
class ModelInfo:
    """The description of a model family.

    Attributes:
        id: canonical id, lower case.
        version: adapter version, raised by hand when the numbers change; part of every embedding's identity.
        summary, citation, licence: for people.
        modalities: name to :class:`Modality`; the first is the default.
        options: frozen dataclass of the options; has ``preset`` with ``"official"`` and ``"rs-embed"``.
        dim: length D of a pooled vector, from the options.
        aliases: other ids.
        outputs: supported output modes.
        size: side of the model's input in pixels, from the options; None where any size is taken as it is.
        square: the input must be square, so a box is fetched as its enclosing square and cropped back.
        frames: how the window becomes frames, from options and window.
        needs_window: refuses ``temporal=None``.
        weights: published file, from the options; None for models without weights.
        precisions: arithmetic it can run in.
        refuse: why a pixel size and a policy for large images do not fit the options and the modality, or None.
        canonical: the options without what changes no number in a modality, for the identity.
        limits: values are clipped to these before an image is scaled to whole tiles; from options, modality and frames.
        any_bands: takes any bands in any order; otherwise a request has as many bands as the modality, in its order.
        smallest: shortest side of an image that the model can say something of, pixels.
        of_rectangle: how a vector of a ROI is made whose image was enlarged to a square: ``"cells"``, the mean (or max) of the
            grid's cells in the ROI, or ``"own"``, the model's own vector of the square (where cells have another dimension).
        cost: what a forward pass of a picture takes, from options and modality; None where it is not known.
        pace: share of the rate of matrix products on a device that the network reaches.
        batch: default images per forward pass by device type.
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
    size: Callable[[Any], int | None] = _any_size
    square: bool = False
    frames: Callable[[Any, TemporalSpec | None], Frames] = _composite
    needs_window: bool = True
    weights: Callable[[Any], Weights | None] = _no_weights
    precisions: tuple[str, ...] = ("fp32", "bf16")
    refuse: Callable[[Any, str, float, Prep], str | None] = lambda options, modality, scale_m, prep: None
    canonical: Callable[[Any, str], Any] = lambda options, modality: options
    limits: Callable[[Any, str, int], tuple[float, float] | None] = lambda options, modality, frames: None
    any_bands: bool = False
    smallest: Callable[[Any], int] = lambda options: 1
    of_rectangle: str = "cells"
    cost: Callable[[Any, str, Picture], Pass] | None = None
    pace: float = 1.0
    batch: Mapping[str, int] = field(default_factory=lambda: {"cpu": 8, "cuda": 64, "mps": 16})
