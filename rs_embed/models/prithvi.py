"""Prithvi-EO 1.0 and 2.0: masked autoencoders over several dates. The TL models are conditioned on
date and location.

Source: Szwarcman et al. 2024, arXiv 2412.02732, and Jakubik et al. 2023, arXiv 2310.18660; the
authors' ``prithvi_mae.py``, ``inference.py`` and ``config.json`` in the hub repositories. Patches
of (1, p, p) values, ordered time, row, column; with SC(d, v) = ``vit.sincos``:

    token(t, r, c) = patch + [SC(6/16 D, c), SC(6/16 D, r), SC(4/16 D, t)]
                   + scale_time * [SC(D/2, year), SC(D/2, day of year)]     (TL)
                   + scale_location * [SC(D/2, lat), SC(D/2, lon)]          (TL)

A class token without any of these comes first; pre-norm blocks; a LayerNorm after the last one.

The latitude comes first: the authors' ``LocationEncoder`` encodes column 0 as the latitude. Their
``inference.py`` passes rasterio's ``lnglat()``, longitude first; the encoder decides here.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..planning.flops import InputShape, PassCost, matmul_flops, transformer_flops
from ..planning.model_info import Frames, Modality, ModelInfo, Weights
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec, TemporalSpec
from .base import Image
from .prithvi_variants import BANDS, MEAN, SPELLINGS, STD, VARIANTS, Variant
from .shared.pretrained import Pretrained, PretrainedOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

__all__ = ["ADAPTER", "BANDS", "INFO", "MEAN", "STD", "VARIANTS", "Options", "Prithvi", "Variant"]

#: Side of the network's input, pixels.
SIZE = 224
#: Value of pixels without data after normalisation (the authors' ``inference.py``, NO_DATA_FLOAT).
NO_DATA = 0.0001
#: Shortest time between two frames in training, days (arXiv 2412.02732: one to six months).
DAYS_PER_FRAME = 28
#: Largest number of frames, eight years of 28 days. Their positions need 60 MB (600M: 130 MB).
MAX_FRAMES = 104


@dataclass(frozen=True)
class Options(PretrainedOptions):
    """Options of Prithvi."""

    variant: str = option("prithvi_eo_v2_100_tl", "size of the model (short names are the same)", choices=(*SPELLINGS,))
    temporal_mode: str = option(
        "auto",
        "frames of a window: multi (one per 28 days, equal bins), single (one composite), auto (multi from 56 days on)",
        choices=("auto", "single", "multi"),
    )
    max_frames: int | None = option(
        None, "most frames of a window; null: as many as in training, 4 (1.0: 3)", minimum=1, maximum=MAX_FRAMES
    )
    n_frames: int | None = option(None, "another name of max_frames", minimum=1, maximum=MAX_FRAMES)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", SPELLINGS[self.variant])
        if self.n_frames is not None:  # one identity for both spellings
            if self.max_frames not in (self.n_frames, None):
                raise ModelError(
                    f"model_config.n_frames: {self.n_frames!r} contradicts max_frames={self.max_frames!r}; "
                    "allowed: one of them, it is the same option"
                )
            object.__setattr__(self, "max_frames", self.n_frames)
            object.__setattr__(self, "n_frames", None)
        object.__setattr__(self, "max_frames", self.most_frames)

    @property
    def most_frames(self) -> int:
        """``max_frames``, or its default, which depends on the variant."""
        return self.max_frames or VARIANTS[self.variant].frames


def choose_frames(options: Options, window: TemporalSpec | None) -> Frames:
    """One frame for every 28 days of the window, at least 1 and at most ``max_frames``, as in
    rs-embed 0.3.1."""
    if window is None or options.temporal_mode == "single":
        return Frames()
    days = (dt.date.fromisoformat(window.end) - dt.date.fromisoformat(window.start)).days
    count = max(1, min(days // DAYS_PER_FRAME, options.most_frames))
    return Frames("equal", count) if count > 1 or options.temporal_mode == "multi" else Frames()


def _published_weights(options: Options) -> Weights:
    v = VARIANTS[options.variant]
    repository = f"ibm-nasa-geospatial/Prithvi-EO-{v.generation}-{v.size}{'-TL' * v.conditioned}"
    file = f"Prithvi_EO_V{v.generation[0]}_{v.size}{'_TL' * v.conditioned}.pt"
    return Weights(repository, v.revision, file, v.sha256)


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    """The cost with all frames; of equal frames only the first enters the network."""
    v, frames = VARIANTS[options.variant], shape.frames
    side = SIZE // v.patch
    patches = frames * side**2
    flops = matmul_flops(patches, len(BANDS) * v.patch**2, v.dim)
    flops += transformer_flops(patches + 1, v.dim, v.depth, 4 * v.dim)
    inputs = frames * len(BANDS) * SIZE**2 + v.conditioned * (frames + 1) * v.dim
    return PassCost(flops, inputs, (v.dim, side, side))


INFO = ModelInfo(
    id="prithvi",
    version=2,
    summary="Prithvi-EO 1.0 and 2.0: several dates of six Sentinel-2 bands at 30 m, TL: conditioned on date and place",
    citation="Szwarcman et al. 2024, Prithvi-EO-2.0, arXiv 2412.02732; Jakubik et al. 2023, 1.0, arXiv 2310.18660",
    licence="Apache-2.0 (weights and authors' code)",
    modalities={
        "s2": Modality(
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", BANDS, scale_m=30.0, modality="s2"),
            "DN (surface reflectance x 10000)",
        )
    },
    options=Options,
    dim=lambda options: VARIANTS[options.variant].dim,
    aliases=("prithvi_eo_v2_s2_6b",),
    size=lambda options: SIZE,
    square=True,
    frames=choose_frames,
    weights=_published_weights,
    # temporal_mode and max_frames only decide the frames, which are part of the source
    canonical=lambda options, modality: replace(options, temporal_mode="auto", max_frames=Options.max_frames),
    smallest=lambda options: VARIANTS[options.variant].patch,
    limits=lambda options, modality, frames: (0, 10000) if options.preset == "rs-embed" and frames > 1 else None,
    cost=_compute_cost,
    batch={"cpu": 2, "cuda": 32, "mps": 8},
)


class Prithvi(Pretrained):
    """Adapter of Prithvi-EO 1.0 and 2.0."""

    info = INFO
    # the first file of 1.0 had no prefix, and files of old versions of TerraTorch can have the
    # last two (checkpoint_filter_fn_vit in its prithvi_vit.py)
    prefixes = ("encoder.", "", "_timm_module.", "encoder._timm_module.")

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """The encoder, without the decoder of the published file."""
        from .shared.vit import Network, Patches, Transformer

        v = VARIANTS[options.variant]
        scales = ("temporal_embed_enc", "location_embed_enc") if v.conditioned else ()
        return Network(
            cls_token=(1, 1, v.dim),
            patch_embed=Network(proj=Patches(len(BANDS), v.dim, (1, v.patch, v.patch))),
            **{name: Network(scale=(1,)) for name in scales},
            encoder=Transformer(v.dim, v.depth, v.heads, 4 * v.dim, eps=v.eps),
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """Blocks and last norm are one part of the network; the table of positions is computed.

        The decoder's names begin with ``decoder.``, or, without prefix, with ``decoder_``.
        """
        if name in ("pos_embed", "mask_token") or name.startswith(("decoder.", "decoder_")):
            return None
        return f"encoder.{name}" if name.startswith(("blocks.", "norm.")) else name

    def prepare(self, network: Any, options: Options, modality: str) -> None:
        """``positions``: the encoding of column, row and frame of every patch token, (max_frames,
        h * w, D) float32."""
        import torch

        from .shared.vit import sincos

        v = VARIANTS[options.variant]
        side, count = SIZE // v.patch, options.most_frames
        cell_dim, time_dim = v.dim // 16 * 6, v.dim // 16 * 4
        cells, times = sincos(cell_dim, torch.arange(side)), sincos(time_dim, torch.arange(count))
        parts = (
            cells[None, None, :].expand(count, side, side, cell_dim),
            cells[None, :, None].expand(count, side, side, cell_dim),
            times[:, None, None].expand(count, side, side, time_dim),
        )
        network.register_derived("positions", torch.cat(parts, -1).flatten(1, 2))

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """``pixels`` (6, T, 224, 224), and for TL models ``time`` (T, D) and ``place`` (D,), the
        encoded dates and centre, all float32.

        T counts different frames: of equal frames (a bin without imagery repeats the whole window)
        only the first is used.
        """
        import numpy as np

        from .shared.inputs import pad_to_square, resize

        normalized = _normalize(image, options)
        conditions = _encode_conditions(image, options)
        kept: list[int] = []
        for i, frame in enumerate(normalized):
            if not any(np.array_equal(frame, normalized[k]) for k in kept):
                kept.append(i)
        pixels = resize(pad_to_square(normalized[kept]), SIZE, SIZE)
        inputs = {"pixels": np.ascontiguousarray(pixels.swapaxes(0, 1))}
        if conditions is not None:
            inputs |= {"time": conditions[0][kept], "place": conditions[1]}
        return inputs

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> torch.Tensor:
        """Patch tokens after the last norm: (B, T, h * w, D) float32."""
        import torch

        pixels = batch["pixels"]
        count, dim = pixels.shape[2], VARIANTS[options.variant].dim
        tokens = network.patch_embed.proj(pixels).unflatten(1, (count, -1)) + network.positions[:count]
        if VARIANTS[options.variant].conditioned:
            time = network.temporal_embed_enc.scale * batch["time"]
            place = network.location_embed_enc.scale * batch["place"]
            tokens = tokens + time[:, :, None] + place[:, None, None]
        first = network.cls_token.expand(len(pixels), -1, -1)
        tokens = network.encoder(torch.cat([first, tokens.flatten(1, 2)], 1))
        return tokens[:, 1:].reshape(len(pixels), count, -1, dim)

    def pooled(self, tokens: torch.Tensor, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean or maximum of all patch tokens of all frames: (B, D)."""
        return tokens.amax((1, 2)) if output.pooling == "max" else tokens.mean((1, 2))

    def grid(self, tokens: torch.Tensor, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean or maximum over the frames: (B, D, h, w)."""
        cells = tokens.amax(1) if output.pooling == "max" else tokens.mean(1)
        return cells.transpose(1, 2).unflatten(2, (math.isqrt(cells.shape[1]), -1))

    def describe_weights(self, network: Any, options: Options) -> dict:
        """As of every family; with a ``warning`` if the published file has another digest than the
        one that is listed for it."""
        record: dict = network.weights_record
        listed = VARIANTS[options.variant].listed
        if "repository" not in record or record["sha256"] == (listed or record["sha256"]):
            return record
        return record | {"warning": f"the sha256 is not {listed}, the one listed for this file"}


def _normalize(image: Image, options: Options) -> np.ndarray:
    """(T, 6, H, W) float32: (DN - mean) / std with NO_DATA where all bands are 0, or reflectance
    0..1 (rs-embed)."""
    import numpy as np

    from .shared.inputs import to_digital_numbers, to_reflectance

    if image.pixels.ndim == 4 and image.pixels.shape[1] != len(BANDS):
        raise ModelError(f"pixels of {image.pixels.shape[1]} bands are not valid; allowed: {', '.join(BANDS)}")
    if options.preset == "rs-embed":
        return to_reflectance(image)
    numbers = to_digital_numbers(image)
    v = VARIANTS[options.variant]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (v.mean, v.std))
    return np.where((numbers == 0).all(1, keepdims=True), np.float32(NO_DATA), (numbers - mean) / std)


def _encode_conditions(image: Image, options: Options) -> tuple[np.ndarray, np.ndarray] | None:
    """Dates and centre, encoded: (T, D) and (D,) float32; None for a model without conditions.
    Angles are computed in float64, independent of the device.

    The dates are those of the images, as in training. rs-embed 0.3.1 takes the middle of each
    frame's part of the window, whatever images it has.

    Raises:
        ModelError: not one date per frame, more frames than ``max_frames``, or no valid centre.
    """
    import torch

    from .shared.vit import sincos

    count = len(image.pixels)
    if count > options.most_frames:
        raise ModelError(f"{count} frames are not valid; allowed: at most max_frames={options.most_frames}")
    if not VARIANTS[options.variant].conditioned:
        return None
    dates = image.bin_dates or image.dates if options.preset == "rs-embed" else image.dates
    if len(dates) != count:
        raise ModelError(
            f"{len(dates)} dates for {count} frames are not valid; allowed: one date per frame, which Prithvi needs"
        )
    try:
        days = [dt.date.fromisoformat(date) for date in dates]
    except (TypeError, ValueError):
        raise ModelError(f"the dates {dates!r} are not valid; allowed: ISO dates such as 2022-07-17") from None
    centre = image.lon, image.lat
    if None in centre or not (abs(image.lon) <= 180 and abs(image.lat) <= 90):
        raise ModelError(f"the centre {centre!r} is not valid; allowed: degrees, which Prithvi needs")
    half = VARIANTS[options.variant].dim // 2
    time = sincos(half, torch.tensor([[d.year, d.timetuple().tm_yday] for d in days]))
    place = sincos(half, torch.tensor([image.lat, image.lon], dtype=torch.float64))
    return time.flatten(1).numpy(), place.flatten().numpy()


ADAPTER = Prithvi()
