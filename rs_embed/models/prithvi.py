"""Prithvi-EO-2.0 (TL): a masked autoencoder over several dates, conditioned on date and location.

Source: Szwarcman et al. 2024, arXiv 2412.02732; the authors' ``prithvi_mae.py`` and
``inference.py`` in the hub repositories. Patches of (1, p, p) values, ordered time, row, column;
with SC(d, v) = ``vit.sincos``:

    token(t, r, c) = patch + [SC(6/16 D, c), SC(6/16 D, r), SC(4/16 D, t)]
                   + scale_time * [SC(D/2, year), SC(D/2, day of year)]
                   + scale_location * [SC(D/2, lat), SC(D/2, lon)]

A class token without any of these comes first; pre-norm blocks; a LayerNorm after the last one.
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
from .shared.pretrained import Pretrained, PretrainedOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

#: Side of the network's input, pixels.
SIZE = 224
BANDS = ("B2", "B3", "B4", "B8A", "B11", "B12")
#: Mean and standard deviation of the training imagery (HLS), DN, in the order of BANDS
#: (``config.json`` of the V2 models).
MEAN = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
STD = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
#: Value of pixels without data after normalisation (the authors' ``inference.py``, NO_DATA_FLOAT).
NO_DATA = 0.0001
#: Shortest time between two frames in training, days (arXiv 2412.02732: one to six months).
DAYS_PER_FRAME = 28
#: Largest number of frames, eight years of 28 days. Their positions need 60 MB (600M: 130 MB).
MAX_FRAMES = 104


@dataclass(frozen=True)
class Variant:
    """Sizes of one published model; the size in the name of its file, the pinned commit and, where
    several public sources agree on it, the digest of the file."""

    dim: int
    depth: int
    heads: int
    patch: int
    size: str
    revision: str
    sha256: str | None = None


VARIANTS = {
    "prithvi_eo_v2_100_tl": Variant(768, 12, 12, 16, "100M", "2c84e383194986040f883cc43d7869002c425e1b"),
    "prithvi_eo_v2_300_tl": Variant(
        *(1024, 24, 16, 16, "300M", "63adbd39c271da4c42f447e69b1a7c91a338cdc9"),
        "3629cedfbb350faafcb0dac902ae0d3c927e25ce8d9e0024aa1276ec66956ddb",
    ),
    "prithvi_eo_v2_600_tl": Variant(1280, 32, 16, 14, "600M", "3d72adc6dfc4cc3862bf4f41da8c83db267193c9"),
}
#: every spelling of a variant -> its name in VARIANTS
_SPELLINGS = {name: name for name in VARIANTS} | {
    f"{size}{unit}_tl": f"prithvi_eo_v2_{size}_tl" for size in (100, 300, 600) for unit in ("", "m")
}


@dataclass(frozen=True)
class Options(PretrainedOptions):
    """Options of Prithvi."""

    variant: str = option(
        "prithvi_eo_v2_100_tl", "size of the model (short names are the same)", choices=(*_SPELLINGS,)
    )
    temporal_mode: str = option(
        "auto",
        "frames of a window: multi (one per 28 days, equal bins), single (one composite), auto (multi from 56 days on)",
        choices=("auto", "single", "multi"),
    )
    max_frames: int = option(4, "most frames of a window; training had 4", minimum=1, maximum=MAX_FRAMES)
    n_frames: int | None = option(None, "another name of max_frames", minimum=1, maximum=MAX_FRAMES)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", _SPELLINGS[self.variant])
        if self.n_frames is not None:  # one identity for both spellings
            if self.max_frames not in (self.n_frames, type(self).max_frames):
                raise ModelError(
                    f"model_config.n_frames: {self.n_frames!r} contradicts max_frames={self.max_frames!r}; "
                    "allowed: one of them, it is the same option"
                )
            object.__setattr__(self, "max_frames", self.n_frames)
            object.__setattr__(self, "n_frames", None)


def choose_frames(options: Options, window: TemporalSpec | None) -> Frames:
    """One frame for every 28 days of the window, at least 1 and at most ``max_frames``, as in
    rs-embed 0.3.1."""
    if window is None or options.temporal_mode == "single":
        return Frames()
    days = (dt.date.fromisoformat(window.end) - dt.date.fromisoformat(window.start)).days
    count = max(1, min(days // DAYS_PER_FRAME, options.max_frames))
    return Frames("equal", count) if count > 1 or options.temporal_mode == "multi" else Frames()


def _published_weights(options: Options) -> Weights:
    v = VARIANTS[options.variant]
    repository = f"ibm-nasa-geospatial/Prithvi-EO-2.0-{v.size}-TL"
    return Weights(repository, v.revision, f"Prithvi_EO_V2_{v.size}_TL.pt", v.sha256)


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    """The cost with all frames; of equal frames only the first enters the network."""
    v, frames = VARIANTS[options.variant], shape.frames
    side = SIZE // v.patch
    patches = frames * side**2
    flops = matmul_flops(patches, len(BANDS) * v.patch**2, v.dim)
    flops += transformer_flops(patches + 1, v.dim, v.depth, 4 * v.dim)
    return PassCost(flops, frames * len(BANDS) * SIZE**2 + (frames + 1) * v.dim, (v.dim, side, side))


INFO = ModelInfo(
    id="prithvi",
    version=1,
    summary="Prithvi-EO-2.0 TL: several dates of six Sentinel-2 bands at 30 m, conditioned on date and place",
    citation="Szwarcman et al. 2024, Prithvi-EO-2.0, arXiv 2412.02732",
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
    """Adapter of Prithvi-EO-2.0."""

    info = INFO
    prefixes = ("encoder.", "")

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """The encoder, without the decoder of the published file."""
        from .shared.vit import Network, Patches, Transformer

        v = VARIANTS[options.variant]
        return Network(
            cls_token=(1, 1, v.dim),
            patch_embed=Network(proj=Patches(len(BANDS), v.dim, (1, v.patch, v.patch))),
            temporal_embed_enc=Network(scale=(1,)),
            location_embed_enc=Network(scale=(1,)),
            encoder=Transformer(v.dim, v.depth, v.heads, 4 * v.dim, eps=1e-5),
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """Blocks and last norm are one part of the network; the table of positions is computed."""
        if name == "pos_embed" or name.startswith("decoder."):
            return None
        return f"encoder.{name}" if name.startswith(("blocks.", "norm.")) else name

    def prepare(self, network: Any, options: Options, modality: str) -> None:
        """``positions``: the encoding of column, row and frame of every patch token, (max_frames,
        h * w, D) float32."""
        import torch

        from .shared.vit import sincos

        v = VARIANTS[options.variant]
        side, count = SIZE // v.patch, options.max_frames
        cell_dim, time_dim = v.dim // 16 * 6, v.dim // 16 * 4
        cells, times = sincos(cell_dim, torch.arange(side)), sincos(time_dim, torch.arange(count))
        parts = (
            cells[None, None, :].expand(count, side, side, cell_dim),
            cells[None, :, None].expand(count, side, side, cell_dim),
            times[:, None, None].expand(count, side, side, time_dim),
        )
        network.register_derived("positions", torch.cat(parts, -1).flatten(1, 2))

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """``pixels`` (6, T, 224, 224), ``time`` (T, D) and ``place`` (D,), the encoded dates and
        centre, all float32.

        T counts different frames: of equal frames (a bin without imagery repeats the whole window)
        only the first is used.
        """
        import numpy as np

        from .shared.inputs import pad_to_square, resize

        normalized = _normalize(image, options)
        time, place = _encode_conditions(image, options)
        kept: list[int] = []
        for i, frame in enumerate(normalized):
            if not any(np.array_equal(frame, normalized[k]) for k in kept):
                kept.append(i)
        pixels = resize(pad_to_square(normalized[kept]), SIZE, SIZE)
        return {"pixels": np.ascontiguousarray(pixels.swapaxes(0, 1)), "time": time[kept], "place": place}

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> torch.Tensor:
        """Patch tokens after the last norm: (B, T, h * w, D) float32."""
        import torch

        pixels = batch["pixels"]
        count, dim = pixels.shape[2], VARIANTS[options.variant].dim
        time = network.temporal_embed_enc.scale * batch["time"]
        place = network.location_embed_enc.scale * batch["place"]
        tokens = network.patch_embed.proj(pixels).unflatten(1, (count, -1))
        tokens = tokens + network.positions[:count] + time[:, :, None] + place[:, None, None]
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


def _normalize(image: Image, options: Options) -> np.ndarray:
    """(T, 6, H, W) float32: (DN - MEAN) / STD with NO_DATA where all bands are 0, or reflectance
    0..1 (rs-embed)."""
    import numpy as np

    from .shared.inputs import to_digital_numbers, to_reflectance

    if image.pixels.ndim == 4 and image.pixels.shape[1] != len(BANDS):
        raise ModelError(f"pixels of {image.pixels.shape[1]} bands are not valid; allowed: {', '.join(BANDS)}")
    if options.preset == "rs-embed":
        return to_reflectance(image)
    numbers = to_digital_numbers(image)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    return np.where((numbers == 0).all(1, keepdims=True), np.float32(NO_DATA), (numbers - mean) / std)


def _encode_conditions(image: Image, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Dates and centre, encoded: (T, D) and (D,) float32. Angles are computed in float64,
    independent of the device.

    Raises:
        ModelError: not one date per frame, more frames than ``max_frames``, or no valid centre.
    """
    import torch

    from .shared.vit import sincos

    count = len(image.pixels)
    if count > options.max_frames:
        raise ModelError(f"{count} frames are not valid; allowed: at most max_frames={options.max_frames}")
    if len(image.dates) != count:
        raise ModelError(
            f"{len(image.dates)} dates for {count} frames are not valid; allowed: one date per frame, which Prithvi needs"
        )
    try:
        days = [dt.date.fromisoformat(date) for date in image.dates]
    except (TypeError, ValueError):
        raise ModelError(f"the dates {image.dates!r} are not valid; allowed: ISO dates such as 2022-07-17") from None
    centre = image.lon, image.lat
    if None in centre or not (abs(image.lon) <= 180 and abs(image.lat) <= 90):
        raise ModelError(f"the centre {centre!r} is not valid; allowed: degrees, which Prithvi needs")
    half = VARIANTS[options.variant].dim // 2
    time = sincos(half, torch.tensor([[d.year, d.timetuple().tm_yday] for d in days]))
    place = sincos(half, torch.tensor([image.lat, image.lon], dtype=torch.float64))
    return time.flatten(1).numpy(), place.flatten().numpy()


ADAPTER = Prithvi()
