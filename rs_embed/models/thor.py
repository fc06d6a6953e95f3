"""THOR 1.0: an encoder for Sentinel-1 and -2 with patches at the ground resolution of each band.

Source: Forgaard et al. 2026, arXiv 2601.16011; the authors' code (FM4CS/THOR 1.0.2,
FM4CS/thor_terratorch_ext). For an image of GC x GC metres, patches of p x p pixels, and a group g
of bands of one ground sampling distance GSD (10 or 20 m):

    token(g, r, c) = mean over the group's bands of (w_band * x_band + b_band)
                   + [SC(D - d, p GSD / 40), embedding of g (d)]

with x_band resized to GC / GSD pixels, w_band a 16 x 16 kernel resized to p x p (FlexiViT), and
SC(d, v) = ``vit.sincos``. There is no class token and there are no positions. Every block adds
``-slope(head) * distance`` to the attention logits, where distance is the one between the centres
of two patches over the side of the largest patch, both in metres (ALiBi).

The last norm is published. The authors' export of embeddings takes tokens without it, their
encoder ends with it, and their pooled token has it twice: the option ``vector``.
:mod:`.thor_inputs` makes the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..planning.flops import InputShape, PassCost, matmul_flops, transformer_flops
from ..planning.model_info import Modality, ModelInfo, Prep, Weights
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec
from .base import Image
from .shared.pretrained import Pretrained, PretrainedOptions
from .thor_inputs import (
    BANDS,
    GROUPS,
    RADAR_GSDS,
    SIZE,
    check_patches,
    check_scale,
    choose_native_side,
    get_gsds,
    make_inputs,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

#: Side of the published kernels, pixels.
KERNEL = 16
#: Divisor of the size of a patch on the ground: the authors' smallest patch, 4 pixels of 10 m
#: (``embed_patch_size`` of ``thor/models/thor_vit.py``, ``get_encoder_auxilliary_embed``).
REFERENCE_PATCH_M = 40.0
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
    vector: str = option(
        "tokens",
        "tokens whose mean is the vector: those of the grid, of the last block; those after the encoder's last norm; "
        "or the latter with the norm once more after the mean, the pooled token of the training",
        choices=("tokens", "normed_tokens", "pooled_token"),
    )


def _published_weights(options: Options) -> Weights:
    name = options.variant
    return Weights(f"FM4CS/THOR-1.0-{name}", VARIANTS[name].revision, f"thor_v1_vit_{name}.pt")


def _find_size_error(options: Options, modality: str, scale_m: float, prep: Prep) -> str | None:
    """The error of a pixel size that is valid for no image, or no tile; None where it is valid."""
    try:
        scale = check_scale(scale_m)
        if prep.mode == "tile":
            check_patches(SIZE, scale, modality, options)
    except ModelError as error:
        return str(error)
    return None


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    v, scale, p = VARIANTS[options.variant], check_scale(shape.scale_m), options.patch_size
    size = (shape.height, shape.width)
    side = None if shape.is_tile else choose_native_side(size, scale, modality, options)
    ground = scale * (side or SIZE)  # metres
    gsds = get_gsds(modality, scale, options)
    groups = [(len(group.bands), ground // gsds[name]) for name, group in GROUPS[modality].items()]
    patches = [(side // p) ** 2 for _, side in groups]
    stems = sum(matmul_flops(n, bands * p**2, v.dim) for n, (bands, _) in zip(patches, groups))
    flops = stems + transformer_flops(sum(patches), v.dim, v.depth, 4 * v.dim)
    fine = max(side // p for _, side in groups)
    told = sum(gsds[name] != group.gsd for name, group in GROUPS[modality].items())
    return PassCost(flops, sum(bands * side**2 for bands, side in groups) + told, (v.dim, fine, fine))


INFO = ModelInfo(
    id="thor",
    version=2,
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
    limits=lambda options, modality, frames: (0, 10000) if options.preset == "rs-embed" and modality == "s2" else None,
    vector_of_cells=lambda options: options.vector == "tokens",
    cost=_compute_cost,
    batch={"cpu": 1, "cuda": 16, "mps": 4},
)


class Thor(Pretrained):
    """Adapter of THOR."""

    info = INFO
    prefixes = ("encoder.", "")

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """The published tensors that the modality and the vector need; :meth:`prepare` computes
        the stems of the forward pass from the kernels."""
        from torch import nn

        from .shared.vit import Network, Transformer

        v = VARIANTS[options.variant]
        norm = {} if options.vector == "tokens" else {"norm": nn.LayerNorm(v.dim, 1e-6)}
        kernel = {"weight": (v.dim, 1, KERNEL, KERNEL), "bias": (v.dim,)}
        return Network(
            encoder_slopes=(v.heads,),
            kernels=Network(**{band: Network(**kernel) for band in BANDS[modality]}),
            band_embed=Network(**{group: (v.band,) for group in GROUPS[modality]}),
            encoder=Transformer(v.dim, v.depth, v.heads, 4 * v.dim, eps=1e-6, final_norm=False),
            **norm,
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """Kernels by band, for this modality only; the last norm where the vector uses it."""
        if name.startswith(("decoder", "decode_", "pos_embed", "ref_pos_embed")):
            return None
        match name.split("."):
            case "ind_patch_embed", "patch_embed", kernel, part:
                band = KERNELS.get(kernel)
                return f"kernels.{band}.{part}" if band in BANDS[modality] else None
            case "band_embed", group:
                return name if group in GROUPS[modality] else None
            case "ind_patch_embed" | "band_embed", *_:
                return None
            case "norm", *_:
                return None if options.vector == "tokens" else name
            case "blocks", *_:
                return f"encoder.{name}"
        return name

    def prepare(self, network: Any, options: Options, modality: str) -> None:
        """One patch layer per group. Its weights are those of the bands over their number, so one
        product computes their mean. ``token_offset_*``, (G, D) float32, is the part that all
        tokens of a group share, for each ground sampling distance that the network can be
        told."""
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
            gsds = torch.tensor(RADAR_GSDS if modality == "s1" else (group.gsd,))
            sizes = sincos(v.dim - v.band, p * gsds / REFERENCE_PATCH_M)
            embedding = getattr(network.band_embed, name).expand(len(gsds), -1)
            network.register_derived(f"token_offset_{name}", torch.cat([sizes, embedding], 1))
        network.stems = Network(**stems)
        network.biases = BiasCache()
        del network.kernels, network.band_embed

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """The bands of each group; see :func:`.thor_inputs.make_inputs`. The shapes define the
        geometry, but for the ground sampling distance of Sentinel-1."""
        return make_inputs(image, options)

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> tuple[torch.Tensor, list, Any]:
        """Tokens of the last block, (B, N, D) float32, group after group; the side of the grid of
        each group; and the last norm, None where the vector is without it."""
        import torch

        names = sorted(name for name in batch if name != "gsd")
        sides = [batch[name].shape[-1] // options.patch_size for name in names]
        tokens = [getattr(network.stems, name)(batch[name]) + _get_offset(network, name, batch) for name in names]
        dtype = network.encoder.blocks[0].attn.qkv.weight.dtype
        bias = network.biases.get(network.encoder_slopes, sides, dtype)
        return network.encoder(torch.cat(tokens, 1), bias), sides, getattr(network, "norm", None)

    def pooled(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean or maximum of all tokens of all groups, with the norms of ``vector``: (B, D). Finer
        groups have more tokens, so they weigh more."""
        x, _, norm = tokens
        x = x if norm is None else norm(x)
        vector = x.amax(1) if output.pooling == "max" else x.mean(1)
        return norm(vector) if options.vector == "pooled_token" else vector

    def grid(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean of the groups' grids, coarser ones enlarged bilinearly: (B, D, h, w)."""
        import torch
        import torch.nn.functional as F

        values, sides, _ = tokens
        groups = values.split([n * n for n in sides], 1)
        grids = [group.transpose(1, 2).unflatten(2, (n, n)) for group, n in zip(groups, sides)]
        fine = max(sides)
        grids = [g if n == fine else F.interpolate(g, (fine, fine), mode="bilinear") for g, n in zip(grids, sides)]
        return torch.stack(grids).mean(0)


def _get_offset(network: Any, name: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What is added to all tokens of a group: (1, D), or (B, 1, D) where the images have ground
    sampling distances other than the group's."""
    offsets = getattr(network, f"token_offset_{name}")
    return offsets[(batch["gsd"] / RADAR_GSDS[0]).long() - 1] if "gsd" in batch else offsets[:1]


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


ADAPTER = Thor()
