"""TerraFM: a transformer with one stem each for Sentinel-2 L2A, Sentinel-2 L1C and Sentinel-1.

    e = patches of the image, in 3 x the width, with the kernel of the stem + the stem's vector
    e = proj3(proj2(norm_input(proj1(e))))                no activation between them; eps 1e-5
    x = [class; e] + positions;  blocks and norm (eps 1e-6);  pooled = x_class, grid = x_patches

Sources: Danish et al. 2025, arXiv 2506.06281, section 3 (stems, one-modality path of the fusion,
blocks); the authors' ``terrafm.py`` (``terrafm_base``, ``terrafm_large``: sizes and eps;
``PatchEmbed``: stems and their vectors; ``TokenProjection``; ``TerraFM.forward``: the vector;
``TerraFM.extract_feature``: the grid after the last norm). The authors publish no scaling of
pixels: that of :meth:`TerraFM.preprocess` is from rs-embed 0.3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..planning.flops import InputShape, PassCost, matmul_flops, transformer_flops
from ..planning.model_info import Modality, ModelInfo, Weights
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec
from .base import Image
from .shared.inputs import resize, scale_log_power, to_linear_power, to_reflectance
from .shared.pretrained import Pretrained, PretrainedOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

#: Side of the image and of a patch, pixels.
SIDE, PATCH = 224, 16
CELLS = SIDE // PATCH


@dataclass(frozen=True)
class Variant:
    """Width, blocks and heads of one size, and whether its file is published."""

    width: int
    depth: int
    heads: int
    published: bool = True


VARIANTS = {"b": Variant(768, 12, 12), "l": Variant(1024, 24, 16, published=False)}

#: Bands of Sentinel-2 L2A in the order of the published kernels: all but B10, which L2A lacks.
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")


@dataclass(frozen=True)
class Options(PretrainedOptions):
    """Options of TerraFM."""

    variant: str = option("b", "size of the transformer: base or large", choices=tuple(VARIANTS))
    stem: str | None = option(
        None,
        "kernel for Sentinel-2: for surface (l2a) or top-of-atmosphere reflectance (l1c); null: l2a with preset "
        "'official', l1c with 'rs-embed'",
        choices=("l2a", "l1c"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None and not VARIANTS[self.variant].published:
            raise ModelError(
                f"model_config.weights: null is not valid with variant {self.variant!r}, whose file its authors have announced "
                "but not published; allowed: path of a weights file, or 'random'"
            )


def _choose_stem(options: Options, modality: str) -> str:
    """The published name of the stem that a request uses. Training had each product in its own
    stem (arXiv 2506.06281, section 3). The authors' ``TerraFM.prepare_tokens`` does not pass
    ``is_l2a`` on to ``PatchEmbed.forward``, so that their ``forward``, and rs-embed 0.3.1, put
    12 bands of any product into the stem of L1C."""
    if modality == "s1":
        return "s1"
    return "s2_" + (options.stem or ("l2a" if options.preset == "official" else "l1c"))


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    v, patches = VARIANTS[options.variant], CELLS**2
    wide = 3 * v.width
    stem = matmul_flops(patches, shape.bands * PATCH**2, wide) + 2 * matmul_flops(patches, wide, wide)
    flops = stem + matmul_flops(patches, wide, v.width) + transformer_flops(patches + 1, v.width, v.depth, 4 * v.width)
    return PassCost(flops, shape.bands * SIDE**2, (v.width, CELLS, CELLS))


INFO = ModelInfo(
    id="terrafm",
    version=1,
    summary="TerraFM (ViT-B/16 or ViT-L/16) on 12 bands of Sentinel-2, or on Sentinel-1 VV and VH",
    citation="Danish et al. 2025, TerraFM, ICLR 2026, arXiv 2506.06281",
    licence="Apache-2.0",
    modalities={
        "s2": Modality(
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", BANDS, modality="s2"), "DN (surface reflectance x 10000)"
        ),
        "s1": Modality(SensorSpec("COPERNICUS/S1_GRD_FLOAT", ("VV", "VH"), modality="s1"), "linear power"),
    },
    options=Options,
    dim=lambda options: VARIANTS[options.variant].width,
    aliases=("terrafm_b",),
    size=lambda options: SIDE,
    square=True,
    # The file was uploaded in commit dc6ae70 of the hub (head: 3631173). The full ids are not
    # known here, so commit and digest are recorded at the first use.
    weights=lambda options: (
        Weights("MBZUAI/TerraFM", "main", "TerraFM-B.pth") if VARIANTS[options.variant].published else None
    ),
    smallest=lambda options: PATCH,
    canonical=lambda options, modality: replace(
        options, stem=None if modality == "s1" else _choose_stem(options, "s2")[3:]
    ),
    cost=_compute_cost,
    batch={"cpu": 4, "cuda": 64, "mps": 16},
)


class TerraFM(Pretrained):
    """Adapter of TerraFM's encoder with the stem of the request's modality."""

    info = INFO

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """Stem, its projection to the width, and the transformer with learned positions for 14 x
        14 patches."""
        from torch import nn

        from .shared.vit import Linear, Network, Patches, Transformer

        v = VARIANTS[options.variant]
        wide = 3 * v.width
        return Network(
            patches=Patches(len(bands), wide, (PATCH, PATCH)),
            embed=(1, wide),
            proj1=Linear(wide, wide, bias=False),
            norm_input=nn.LayerNorm(wide, 1e-5),
            proj2=Linear(wide, wide),
            proj3=Linear(wide, v.width),
            cls_token=(1, 1, v.width),
            pos_embed=(1, CELLS**2 + 1, v.width),
            transformer=Transformer(v.width, v.depth, v.heads, 4 * v.width, eps=1e-6),
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """Stems of other modalities, and tensors outside the encoder (training heads), are not
        used."""
        first, _, rest = name.partition(".")
        if first in ("cls_token", "pos_embed"):
            return name
        if first in ("blocks", "norm"):
            return f"transformer.{name}"
        if first != "patch_embed":
            return None
        for stem in ("s2_l2a", "s2_l1c", "s1"):
            for published, local in ((f"conv2d_{stem}.", "patches."), (f"{stem}_embed", "embed")):
                if rest.startswith(published):
                    return local + rest.removeprefix(published) if stem == _choose_stem(options, modality) else None
        return rest.removeprefix("projection.")

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """(12 or 2, 224, 224) float32 in 0..1: reflectance, or power on a logarithmic scale;
        stretched to the size."""
        import numpy as np

        pixels = scale_log_power(to_linear_power(image)) if image.modality == "s1" else to_reflectance(image)
        return {"pixels": np.ascontiguousarray(resize(pixels[:1], SIDE, SIDE)[0])}

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> Any:
        """Tokens after the last norm, (B, 197, width), class token first."""
        import torch

        x = network.patches(batch["pixels"]) + network.embed
        x = network.proj3(network.proj2(network.norm_input(network.proj1(x).float())))
        x = torch.cat([network.cls_token.expand(len(x), -1, -1), x.float()], 1) + network.pos_embed
        return network.transformer(x)

    def pooled(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """The class token, (B, width). ``pooling`` has no effect on one token."""
        return tokens[:, 0]

    def grid(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Patch tokens, (B, width, 14, 14)."""
        return tokens[:, 1:].mT.unflatten(2, (CELLS, CELLS))


ADAPTER = TerraFM()
