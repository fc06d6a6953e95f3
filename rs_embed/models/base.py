"""The interface of a model adapter: what differs between model families.

An adapter turns one image into the tensors of its network, runs the network on a batch of them,
and turns the tokens into a vector or a grid. Batches, devices, threads, tiles and metadata are the
task of :mod:`rs_embed.engine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..planning.model_info import ModelInfo
from ..request.geometry import Grid
from ..request.specs import OutputSpec
from ..weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class ValueRange:
    """Statistics of the finite values of an image: the lowest, the highest, and the share of
    negative ones."""

    lowest: float
    highest: float
    negative: float


@dataclass(frozen=True)
class Image:
    """The input of an adapter: the image of a whole ROI, or one tile of it.

    Attributes:
        modality: name of the model's modality that the pixels belong to.
        pixels: (T, C, H, W) in the provider's dtype and the modality's units of measure, C in the
            order of ``bands``, north-up.
        bands: band names.
        scale_m: pixel size, metres.
        lon, lat: centre of this image, degrees (for models conditioned on location).
        dates: ISO date of each frame, or () where unknown (for models conditioned on time): the
            day of its images if they are of one day, else the middle of its part of the window.
        bin_dates: the middle of each frame's part of the window, whatever images it has; ()
            without a window.
        window: (start, end) of the request, or None.
        roi: (y0, y1, x0, x1), position of the ROI in an image that was enlarged to a square, as
            shares of the image; None where the image covers exactly the ROI. The engine crops the
            result; adapters can ignore it.
        is_tile: the request is for tiles, and this is a tile or an image that fits into one.
        grid: grid of the pixels, for the centres of tiles; None where tiles have the centre of the
            whole image.
        whole_range: for one of several tiles, the value range of the whole image: a tile without
            data, at the edge of a swath, is no reason to refuse the image. None for a whole image,
            or one without finite values.
    """

    modality: str
    pixels: np.ndarray
    bands: tuple[str, ...]
    scale_m: float
    lon: float
    lat: float
    dates: tuple[str, ...] = ()
    window: tuple[str, str] | None = None
    roi: tuple[float, float, float, float] | None = None
    is_tile: bool = False
    grid: Grid | None = None
    whole_range: ValueRange | None = None
    bin_dates: tuple[str, ...] = ()


class Adapter(Protocol):
    """A model family. ``options`` are always the validated options of the request
    (``info.options``)."""

    info: ModelInfo

    def load(self, options: Any, modality: str, bands: tuple[str, ...], weights: Checkpoint | None) -> Any:
        """The network (a ``torch.nn.Module`` in eval mode, on the CPU, float32); changes no global
        state.

        Args:
            bands: the request's bands, for models whose stem depends on them.
            weights: file of the weights, None where ``info.weights`` returns None.
        """
        ...

    def preprocess(self, image: Image, options: Any) -> dict[str, np.ndarray]:
        """The network's inputs for one image, without a batch axis. Images whose inputs have equal
        shapes are batched together. Conditioning (location, time, scale) is passed as arrays
        beside the pixels. Called from several threads; must not change ``image``.

        Raises:
            ModelError: the image cannot be embedded; the engine adds ROI and model.
        """
        ...

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Any) -> Any:
        """Tokens of a batch, in the form that :meth:`pooled` and :meth:`grid` expect. Must process
        every image independently."""
        ...

    def pooled(self, tokens: Any, output: OutputSpec, options: Any) -> torch.Tensor:
        """(B, D) float32."""
        ...

    def grid(self, tokens: Any, output: OutputSpec, options: Any) -> torch.Tensor:
        """(B, D, h, w) float32, north-up, covering the whole image."""
        ...

    def describe_weights(self, network: Any, options: Any) -> dict:
        """What manifests contain about the weights in use: at least ``pretrained`` (bool), and
        ``sha256`` of a file."""
        ...
