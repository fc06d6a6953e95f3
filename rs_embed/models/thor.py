"""THOR 1.0: an encoder for Sentinel-1 and -2 with patches at the ground resolution of each band.

Source: Forgaard et al. 2026, arXiv 2601.16011; the authors' code (FM4CS/THOR 1.0.2,
FM4CS/thor_terratorch_ext). For an image of GC x GC metres, patches of p x p pixels, and a group g
of bands of one ground sampling distance GSD (10 or 20 m):

    token(g, r, c) = mean over the group's bands of (w_band * x_band + b_band)
                   + [SC(D - d, p GSD / 40), embedding of g (d)]

with x_band resized to GC / GSD pixels, w_band a 16 x 16 kernel resized to p x p (FlexiViT), and
SC(d, v) = ``vit.sincos``. There is no class token and there are no positions. Every block adds
``-slope(head) * distance`` to the attention logits, where distance is the one between the centres
of two patches over the side of the largest patch, both in metres (ALiBi). There is no norm after
the last block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError
from ..planning.flops import InputShape, PassCost, matmul_flops, transformer_flops
from ..planning.model_info import Modality, ModelInfo, Prep, Weights
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec
from .base import Image
from .shared.pretrained import Pretrained, PretrainedOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

#: Side of an image that is not used at its own pixel size, pixels.
SIZE = 288
#: Largest image used at its own pixel size: side in pixels, and tokens (rs-embed 0.3.1).
NATIVE_SIDE, NATIVE_TOKENS = 384, 3000
#: Largest difference of height and width that is cropped, not stretched, pixels (rs-embed 0.3.1).
NEARLY_SQUARE = 8
#: Most tokens of any image: the attention bias has heads * tokens^2 numbers, 2 GB for base.
MAX_TOKENS = 6480
#: Side of the published kernels, pixels.
KERNEL = 16
#: Divisor of the size of a patch on the ground: the authors' smallest patch, 4 pixels of 10 m.
REFERENCE_PATCH_M = 40.0


@dataclass(frozen=True)
class Group:
    """Bands that share tokens: their ground sampling distance in metres, and their names."""

    gsd: int
    bands: tuple[str, ...]


#: Groups of each modality by their name in the published file, in the order of their tokens.
GROUPS = {
    "s2": {
        "group0": Group(10, ("B2", "B3", "B4", "B8")),
        "group1": Group(20, ("B5", "B6", "B7", "B8A", "B11", "B12")),
    },
    "s1": {"group3": Group(10, ("VV", "VH"))},
}
#: Published name of a band's kernel -> band.
KERNELS = {
    "S2:Blue": "B2",
    "S2:Green": "B3",
    "S2:Red": "B4",
    "S2:RE1": "B5",
    "S2:RE2": "B6",
    "S2:RE3": "B7",
    "S2:NIR": "B8",
    "S2:RE4": "B8A",
    "S2:SWIR1": "B11",
    "S2:SWIR2": "B12",
    "S1:VV": "VV",
    "S1:VH": "VH",
}
#: Mean and standard deviation of the training imagery: reflectance, and dB of Sentinel-1 in IW
#: mode (authors' statistics).
STATISTICS = {
    "B2": (0.176620, 0.264520),
    "B3": (0.195923, 0.252949),
    "B4": (0.213948, 0.259180),
    "B5": (0.263378, 0.272771),
    "B6": (0.300818, 0.248175),
    "B7": (0.313144, 0.235432),
    "B8": (0.308133, 0.226434),
    "B8A": (0.320993, 0.223274),
    "B11": (0.221550, 0.171606),
    "B12": (0.175772, 0.156223),
    "VV": (-12.9850, 5.0062),
    "VH": (-20.6958, 5.8688),
}
BANDS = {"s2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), "s1": ("VV", "VH")}


@dataclass(frozen=True)
class Variant:
    """Sizes of one published model; ``band`` is the length of a group's embedding. ``revision``
    pins its file."""

    dim: int
    depth: int
    heads: int
    band: int
    revision: str = "main"


VARIANTS = {
    "tiny": Variant(192, 12, 3, 32),
    "small": Variant(384, 12, 6, 64),
    "base": Variant(768, 12, 12, 128, "823c265cbb941a3e1b9054910a65dbe190c11f11"),
    "large": Variant(1024, 24, 16, 256),
}


@dataclass(frozen=True)
class Options(PretrainedOptions):
    """Options of THOR."""

    variant: str = option("base", "size of the model", choices=tuple(VARIANTS))
    patch_size: int = option(
        8, "side of a patch, pixels of 10 m (and of 20 m); 16 makes a quarter of the tokens", choices=(8, 16)
    )


def _published_weights(options: Options) -> Weights:
    name = options.variant
    return Weights(f"FM4CS/THOR-1.0-{name}", VARIANTS[name].revision, f"thor_v1_vit_{name}.pt")


def _find_size_error(options: Options, modality: str, scale_m: float, prep: Prep) -> str | None:
    """The error of a pixel size that is valid for no image, or no tile; None where it is valid."""
    try:
        scale = _check_scale(scale_m)
        if prep.mode == "tile":
            _check_patches(SIZE, scale, modality, options)
    except ModelError as error:
        return str(error)
    return None


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    v, scale, p = VARIANTS[options.variant], _check_scale(shape.scale_m), options.patch_size
    size = (shape.height, shape.width)
    side = None if shape.is_tile else _choose_native_side(size, scale, modality, options)
    ground = scale * (side or SIZE)  # metres
    groups = [(len(group.bands), ground // group.gsd) for group in GROUPS[modality].values()]
    patches = [(side // p) ** 2 for _, side in groups]
    stems = sum(matmul_flops(n, bands * p**2, v.dim) for n, (bands, _) in zip(patches, groups))
    flops = stems + transformer_flops(sum(patches), v.dim, v.depth, 4 * v.dim)
    fine = max(side // p for _, side in groups)
    return PassCost(flops, sum(bands * side**2 for bands, side in groups), (v.dim, fine, fine))


INFO = ModelInfo(
    id="thor",
    version=1,
    summary="THOR 1.0: ten Sentinel-2 bands or Sentinel-1, patches at each band's own resolution",
    citation="Forgaard et al. 2026, THOR, arXiv 2601.16011",
    licence="Apache-2.0 (weights), MIT (authors' code)",
    modalities={
        "s2": Modality(
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", BANDS["s2"], modality="s2"), "DN (surface reflectance x 10000)"
        ),
        "s1": Modality(SensorSpec("COPERNICUS/S1_GRD_FLOAT", BANDS["s1"], modality="s1"), "linear power"),
    },
    options=Options,
    dim=lambda options: VARIANTS[options.variant].dim,
    aliases=("thor_1_0_base",),
    size=lambda options: SIZE,
    square=True,
    weights=_published_weights,
    smallest=lambda options: options.patch_size,
    refuse=_find_size_error,
    limits=lambda options, modality, frames: (0, 10000) if modality == "s2" else None,
    cost=_compute_cost,
    batch={"cpu": 1, "cuda": 16, "mps": 4},
)


class Thor(Pretrained):
    """Adapter of THOR."""

    info = INFO
    prefixes = ("encoder.", "")

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """The published tensors that the modality needs; :meth:`prepare` computes the stems of the
        forward pass from the kernels."""
        from .shared.vit import Network, Transformer

        v = VARIANTS[options.variant]
        kernel = {"weight": (v.dim, 1, KERNEL, KERNEL), "bias": (v.dim,)}
        return Network(
            encoder_slopes=(v.heads,),
            kernels=Network(**{band: Network(**kernel) for band in BANDS[modality]}),
            band_embed=Network(**{group: (v.band,) for group in GROUPS[modality]}),
            encoder=Transformer(v.dim, v.depth, v.heads, 4 * v.dim, eps=1e-6, final_norm=False),
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """Kernels by band, for this modality only. The last norm is published but not used."""
        if name.startswith(("decoder", "decode_", "norm.", "pos_embed", "ref_pos_embed")):
            return None
        match name.split("."):
            case "ind_patch_embed", "patch_embed", kernel, part:
                band = KERNELS.get(kernel)
                return f"kernels.{band}.{part}" if band in BANDS[modality] else None
            case "band_embed", group:
                return name if group in GROUPS[modality] else None
            case "ind_patch_embed" | "band_embed", *_:
                return None
            case "blocks", *_:
                return f"encoder.{name}"
        return name

    def prepare(self, network: Any, options: Options, modality: str) -> None:
        """One patch layer per group. Its weights are those of the bands over their number, so one
        product computes their mean. ``token_offset_*``, (1, D) float32, is the part that all
        tokens of a group share."""
        import torch

        from .shared.alibi import BiasCache
        from .shared.vit import Network, Patches, sincos

        p, v = options.patch_size, VARIANTS[options.variant]
        resize = _compute_kernel_resize(p)
        stems = {}
        for name, group in GROUPS[modality].items():
            kernels = [getattr(network.kernels, band) for band in group.bands]
            weight = torch.stack([k.weight.double().flatten(1) @ resize for k in kernels], 1) / len(kernels)
            bias = torch.stack([k.bias.double() for k in kernels]).mean(0)
            stem = stems[name] = Patches(len(kernels), v.dim, (p, p))
            stem.weight = torch.nn.Parameter(weight.unflatten(2, (p, p)).float(), requires_grad=False)
            stem.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
            size = sincos(v.dim - v.band, torch.tensor(p * group.gsd / REFERENCE_PATCH_M))
            network.register_derived(f"token_offset_{name}", torch.cat([size, getattr(network.band_embed, name)])[None])
        network.stems = Network(**stems)
        network.biases = BiasCache()
        del network.kernels, network.band_embed

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """The bands of each group at its own resolution: (bands, n, n) float32. The shapes define
        the whole geometry."""
        import numpy as np

        from .shared.inputs import resize

        scale = _check_scale(image.scale_m)
        pixels = _check_pixels(image)
        side = None if image.is_tile else _choose_native_side(pixels.shape[2:], scale, image.modality, options)
        if side is not None:
            pixels = _crop_or_pad(pixels, side, "edge" if options.preset == "official" else "constant")
        pixels = _normalize(pixels, image, options)
        if side is None:
            side = SIZE
            pixels = resize(pixels, side, side)
        _check_patches(side, scale, image.modality, options)
        inputs = {}
        for name, group in GROUPS[image.modality].items():
            chosen = pixels[:, [BANDS[image.modality].index(band) for band in group.bands]]
            n = side * scale // group.gsd
            inputs[name] = np.ascontiguousarray(resize(chosen, n, n)[0])
        return inputs

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> tuple[torch.Tensor, list[int]]:
        """Tokens of the last block, (B, N, D) float32, group after group, and the side of the grid
        of each group."""
        import torch

        names = sorted(batch)
        sides = [batch[name].shape[-1] // options.patch_size for name in names]
        tokens = [getattr(network.stems, n)(batch[n]) + getattr(network, f"token_offset_{n}") for n in names]
        dtype = network.encoder.blocks[0].attn.qkv.weight.dtype
        bias = network.biases.get(network.encoder_slopes, sides, dtype)
        return network.encoder(torch.cat(tokens, 1), bias), sides

    def pooled(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean or maximum of all tokens of all groups: (B, D). Finer groups have more tokens, so
        they weigh more."""
        return tokens[0].amax(1) if output.pooling == "max" else tokens[0].mean(1)

    def grid(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean of the groups' grids, coarser ones enlarged bilinearly: (B, D, h, w)."""
        import torch
        import torch.nn.functional as F

        values, sides = tokens
        groups = values.split([n * n for n in sides], 1)
        grids = [group.transpose(1, 2).unflatten(2, (n, n)) for group, n in zip(groups, sides)]
        fine = max(sides)
        grids = [g if n == fine else F.interpolate(g, (fine, fine), mode="bilinear") for g, n in zip(grids, sides)]
        return torch.stack(grids).mean(0)


def _compute_kernel_resize(patch: int) -> torch.Tensor:
    """(256, patch^2) float64: multiplied to a flat kernel from the right, it gives the kernel of
    ``patch`` pixels whose response to a shrunk image equals that of the published kernel to the
    image. Source: Beyer et al. 2023, FlexiViT, arXiv 2212.08013, section 3.4 (PI-resize)."""
    import torch
    import torch.nn.functional as F

    if patch == KERNEL:
        return torch.eye(KERNEL**2, dtype=torch.float64)
    unit_images = torch.eye(KERNEL**2, dtype=torch.float64).unflatten(1, (1, KERNEL, KERNEL))
    shrunk = F.interpolate(unit_images, (patch, patch), mode="bicubic", antialias=True).flatten(1)
    return torch.linalg.pinv(shrunk).T


def _check_scale(scale_m: float) -> int:
    """The pixel size, whole metres."""
    if scale_m != int(scale_m) or scale_m < 1:
        raise ModelError(f"pixels of {scale_m:g} m are not valid; allowed: whole metres")
    return int(scale_m)


def _check_pixels(image: Image) -> np.ndarray:
    """(1, C, H, W) float32: DN 0..10000, or linear power >= 0."""
    import numpy as np

    from .shared.inputs import to_digital_numbers, to_linear_power

    allowed = BANDS[image.modality]
    if image.pixels.ndim == 4 and (image.pixels.shape[1] != len(allowed) or len(image.pixels) != 1):
        raise ModelError(
            f"pixels of shape {image.pixels.shape} are not valid; allowed: 1 frame of {', '.join(allowed)}"
        )
    return np.clip(to_digital_numbers(image), 0, 10000) if image.modality == "s2" else to_linear_power(image)


def _normalize(pixels: np.ndarray, image: Image, options: Options) -> np.ndarray:
    """Input values of the network: z-scores of reflectance or dB; with rs-embed the logarithm of
    power over its 99th percentile."""
    import numpy as np

    from .shared.inputs import DN_PER_REFLECTANCE, scale_log_power, to_decibel

    if image.modality == "s1" and options.preset == "rs-embed":
        return scale_log_power(pixels)
    statistics = np.array([STATISTICS[band] for band in BANDS[image.modality]], np.float32)[:, :, None, None]
    if image.modality == "s2":
        return (pixels / np.float32(DN_PER_REFLECTANCE) - statistics[:, 0]) / statistics[:, 1]
    # a power of 0 is no data and has no decibel value: the mean replaces it
    return np.where(pixels > 0, (to_decibel(pixels) - statistics[:, 0]) / statistics[:, 1], np.float32(0))


def _choose_native_side(shape: tuple[int, ...], scale: int, modality: str, options: Options) -> int | None:
    """Side of an image that is used at its own pixel size: the multiple nearest to its side that
    the patches of every group divide, the smaller of two. None where it is not nearly square or
    too large, and stretched to SIZE (rs-embed 0.3.1, native_snap)."""
    if abs(shape[0] - shape[1]) > NEARLY_SQUARE:
        return None
    patches = [options.patch_size * group.gsd for group in GROUPS[modality].values()]  # metres
    step = math.lcm(*(patch // math.gcd(scale, patch) for patch in patches))
    side = min(shape)
    lower, upper = max(step, side // step * step), max(step, -(-side // step) * step)
    snapped = lower if side - lower <= upper - side else upper
    tokens = sum((snapped * scale // patch) ** 2 for patch in patches)
    return snapped if snapped <= NATIVE_SIDE and tokens <= NATIVE_TOKENS else None


def _crop_or_pad(pixels: np.ndarray, side: int, pad: Literal["constant", "edge"]) -> np.ndarray:
    """(T, C, H, W) cropped to its shorter side, then cropped or padded to ``side``, about the
    centre; an odd pixel is cropped, or added, at the bottom and right."""
    import numpy as np

    for length in (min(pixels.shape[2:]), side):
        surplus = [n - length for n in pixels.shape[2:]]
        rows, columns = (slice(max(n, 0) // 2, max(n, 0) // 2 + length) for n in surplus)
        before = [max(-n, 0) // 2 for n in surplus]
        pixels = pixels[:, :, rows, columns]
        if min(surplus) < 0:
            widths = [(0, 0), (0, 0), *((first, max(-n, 0) - first) for n, first in zip(surplus, before))]
            pixels = np.pad(pixels, widths, pad)
    return pixels


def _check_patches(side: int, scale: int, modality: str, options: Options) -> None:
    """Refuse pixel sizes with which the image is not divisible into patches, or has too many."""
    ground, patches = side * scale, [options.patch_size * group.gsd for group in GROUPS[modality].values()]
    tokens = sum((ground // patch) ** 2 for patch in patches)
    if any(ground % patch for patch in patches) or tokens > MAX_TOKENS:
        raise ModelError(
            f"pixels of {scale} m are not valid for an image of {side} x {side} ({tokens} patches of {max(patches)} m and less); "
            f"allowed: pixel sizes whose image has whole patches, {MAX_TOKENS} at most, such as 10"
        )


ADAPTER = Thor()
