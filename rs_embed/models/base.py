"""The interface of a model adapter: what is particular to a family, and nothing else.

An adapter turns one image into the tensors its network takes, runs the network on a batch of them, and makes a vector
or a grid of the tokens. Batches, devices, threads, tiles and metadata are the engine's (``models/engine.py``).
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
class Spread:
    """What the finite values of an image come to: the lowest, the highest, and the share of negative ones."""

    lowest: float
    highest: float
    negative: float


@dataclass(frozen=True)
class Image:
    """One image as an adapter sees it: a whole ROI, or one tile of it.

    Attributes:
        modality: name of the model's modality that the pixels are of.
        pixels: (T, C, H, W) in the provider's dtype and the modality's units, C in the order of ``bands``, north-up.
        bands: band names.
        scale_m: pixel size, metres.
        lon, lat: centre of this image, degrees (for models conditioned on place).
        dates: ISO date of each frame, or () where unknown (for models conditioned on time).
        window: (start, end) of the request, or None.
        roi: (y0, y1, x0, x1), the ROI's place in an image that was enlarged to a square, as shares of the image; None
            where the image is the ROI. The engine crops back; adapters need not look at it.
        grid: where the pixels lie, for the centres of tiles; None where tiles have the centre of the whole image.
        tile: the request is for tiles: this is one, or an image that fits into one.
        whole: of one of several tiles, the spread of the image that it is of: a tile without data, at the edge of a swath, is
            no reason to refuse the image. None where this is the whole image, or that has no finite value.
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
    tile: bool = False
    grid: Grid | None = None
    whole: Spread | None = None


class Adapter(Protocol):
    """A model family. Every method gets the validated options of the request (``info.options``)."""

    info: ModelInfo

    def load(self, options: Any, modality: str, bands: tuple[str, ...], weights: Checkpoint | None) -> Any:
        """The network (a ``torch.nn.Module`` in eval mode, on the CPU, float32) and nothing global.

        Args:
            bands: the request's bands, for models whose stem depends on them.
            weights: where the weights are, None where ``info.weights`` gives none.
        """
        ...

    def preprocess(self, image: Image, options: Any) -> dict[str, np.ndarray]:
        """The network's inputs for one image, without a batch axis. Images whose inputs have equal shapes are
        batched together. Conditioning (place, time, scale) goes in as arrays beside the pixels. Called from several
        threads; must not change ``image``.

        Raises:
            ModelError: the image cannot be embedded; the engine adds ROI and model.
        """
        ...

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Any) -> Any:
        """Tokens of a batch, in whatever form :meth:`pooled` and :meth:`grid` take. Must treat every image alone."""
        ...

    def pooled(self, tokens: Any, output: OutputSpec, options: Any) -> torch.Tensor:
        """(B, D) float32."""
        ...

    def grid(self, tokens: Any, output: OutputSpec, options: Any) -> torch.Tensor:
        """(B, D, h, w) float32, north-up, covering the whole image."""
        ...

    def record(self, network: Any, options: Any) -> dict:
        """What the manifest says of the weights in use: at least ``pretrained`` (bool), and ``sha256`` of a file."""
        ...
