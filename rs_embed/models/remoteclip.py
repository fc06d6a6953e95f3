"""RemoteCLIP: the image tower of CLIP, trained further on captions of aerial and satellite images.

It uses red, green and blue:

    x = [class; patches of the image] + positions;  x = norm_pre(x);  blocks
    pooled = norm_post(x_class) proj;  grid = x_patches, the output of the last block

All LayerNorms have eps 1e-5. Sources: Liu et al. 2024, arXiv 2306.11029, section III (the model
continues the training of CLIP); Radford et al. 2021, arXiv 2103.00020, section 2.4 and figure 3
(tower, projection, mean and deviation of the images); open_clip's ``model_configs`` (sizes). The
sources of the activation are at :func:`_choose_activation`. Tensors have the names of the
published open_clip state dict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..planning.flops import InputShape, PassCost, matmul_flops, transformer_flops
from ..planning.model_info import Modality, ModelInfo, Weights
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec
from .base import Image
from .shared.inputs import to_reflectance
from .shared.pretrained import Pretrained, PretrainedOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .shared.vit import Network

#: Side of the input, pixels.
SIDE = 224
#: Mean and standard deviation of CLIP's training images, red, green, blue, for values 0..1
#: (OpenAI CLIP, ``clip/clip.py``).
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Variant:
    """Sizes of one published tower: side of a patch in pixels, width, blocks, heads, length of the
    projected vector, and the SHA-256 of its file."""

    patch: int
    width: int
    depth: int
    heads: int
    out: int
    sha256: str | None = None

    @property
    def cells(self) -> int:
        """Patches along a side."""
        return SIDE // self.patch


VARIANTS = {
    "ViT-B-32": Variant(32, 768, 12, 12, 512, "60014e395d930a3f2963d1d89c8522bf4ad56775571e4356e866864789af85c4"),
    "ViT-L-14": Variant(14, 1024, 24, 16, 768, "fcc2a7e21e171f4ffcb7a9c0206b8b74ac0c9eb83c67b576958b7a4ed6c8cecb"),
}


@dataclass(frozen=True)
class Options(PretrainedOptions):
    """Options of RemoteCLIP."""

    variant: str = option("ViT-B-32", "size of the image tower", choices=tuple(VARIANTS))
    activation: str | None = option(
        None,
        "of the MLPs: exact GELU, or OpenAI's x * sigmoid(1.702 x); null: quickgelu with preset 'official', gelu with "
        "'rs-embed'",
        choices=("gelu", "quickgelu"),
    )


def _get_variant(options: Options) -> Variant:
    return VARIANTS[options.variant]


def _choose_activation(options: Options) -> str:
    """The activation of a request. The authors train and evaluate on open_clip's models with the
    tag ``openai`` (ITRA, ``itra/model/models.py``, ``get_model``, and ``itra/training/params.py``,
    ``--image-model-tag``; RemoteCLIP, ``remoteclip_retrieval.py``, ``get_model``), which open_clip
    2.16 builds with ``quick_gelu=True`` (``src/open_clip/model.py``,
    ``build_model_from_openai_state_dict``). Without a tag, as in the example of their README and
    in rs-embed 0.3.1, open_clip builds the same towers with exact GELU."""
    return options.activation or ("quickgelu" if options.preset == "official" else "gelu")


def _published_weights(options: Options) -> Weights:
    return Weights(
        "chendelong/RemoteCLIP",
        "bf1d8a3ccf2ddbf7c875705e46373bfe542bce38",
        f"RemoteCLIP-{options.variant}.pt",
        _get_variant(options).sha256,
    )


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    v = _get_variant(options)
    patches = v.cells**2
    flops = matmul_flops(patches, shape.bands * v.patch**2, v.width)
    flops += transformer_flops(patches + 1, v.width, v.depth, 4 * v.width) + matmul_flops(1, v.width, v.out)
    return PassCost(flops, shape.bands * SIDE**2, (v.width, v.cells, v.cells))


INFO = ModelInfo(
    id="remoteclip",
    version=2,
    summary="RemoteCLIP image tower (ViT-B/32 or ViT-L/14) on true colour: vectors of CLIP's space of pictures and captions",
    citation="Liu et al. 2024, RemoteCLIP, IEEE TGRS 62, arXiv 2306.11029",
    licence="Apache-2.0 (repository; the weights file names none of its own)",
    modalities={
        "s2": Modality(
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"), modality="s2"),
            "DN (surface reflectance x 10000)",
        )
    },
    options=Options,
    dim=lambda options: _get_variant(options).out,
    aliases=("remoteclip_s2rgb",),
    size=lambda options: SIDE,
    square=True,
    weights=_published_weights,
    smallest=lambda options: _get_variant(options).patch,
    canonical=lambda options, modality: replace(options, activation=_choose_activation(options)),
    rectangle_pooling="own",
    cost=_compute_cost,
    batch={"cpu": 8, "cuda": 64, "mps": 16},
)

#: Names of the parts of a block in open_clip -> in ``vit.Block``
_BLOCK_NAMES = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
#: Names of the other parts in open_clip -> in the network
_OUTER_NAMES = {"conv1": "patches", "ln_pre": "norm_pre", "ln_post": "norm_post"}


class RemoteCLIP(Pretrained):
    """Adapter of RemoteCLIP's image tower."""

    info = INFO
    prefixes = ("", "model.")

    def build(self, options: Options, modality: str, bands: tuple[str, ...]) -> Network:
        """The tower with its learned positions, for images of 224 x 224."""
        from torch import nn

        from .shared.vit import Network, Patches, Transformer

        v = _get_variant(options)
        return Network(
            patches=Patches(len(bands), v.width, (v.patch, v.patch), bias=False),
            class_embedding=(v.width,),
            positional_embedding=(v.cells**2 + 1, v.width),
            norm_pre=nn.LayerNorm(v.width, 1e-5),
            transformer=Transformer(
                v.width,
                v.depth,
                v.heads,
                4 * v.width,
                eps=1e-5,
                activation=_choose_activation(options),
                final_norm=False,
            ),
            norm_post=nn.LayerNorm(v.width, 1e-5),
            proj=(v.width, v.out),
        )

    def rename(self, name: str, options: Options, modality: str) -> str | None:
        """``visual.*`` of an open_clip state dict; the text tower and the temperature are not
        used."""
        if not name.startswith("visual."):
            return None
        name = name.removeprefix("visual.")
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if block is None:
            first, *rest = name.split(".")
            return ".".join([_OUTER_NAMES.get(first, first), *rest])
        number, part = block.groups()
        for published, local in _BLOCK_NAMES.items():
            if part == published or part.startswith(f"{published}."):
                part = local + part.removeprefix(published)
                break
        return f"transformer.blocks.{number}.{part}"

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """(3, 224, 224) float32: reflectance as bytes, resized and cropped, then normalized with
        CLIP's mean and deviation."""
        import numpy as np

        from .shared.byte_images import resize_and_crop, to_bytes

        mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (MEAN, DEVIATION))
        pixels = resize_and_crop(to_bytes(to_reflectance(image)[0]), SIDE).astype(np.float32)
        for operation, value in ((np.divide, np.float32(255)), (np.subtract, mean), (np.divide, deviation)):
            operation(pixels, value, out=pixels)
        return {"pixels": pixels}

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> Any:
        """Tokens of the last block, (B, 1 + N, width), class token first; and the network, whose
        projection :meth:`pooled` needs."""
        import torch

        position = network.positional_embedding
        patches = network.patches(batch["pixels"]) + position[1:]
        first = (network.class_embedding + position[0]).expand(len(patches), 1, -1)
        return network.transformer(network.norm_pre(torch.cat([first, patches], 1))), network

    def pooled(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """The projected class token, (B, 512 | 768), not of unit length. ``pooling`` has no effect
        on one token."""
        x, network = tokens
        return network.norm_post(x[:, 0]) @ network.proj

    def grid(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Patch tokens after the last block, (B, 768, 7, 7) or (B, 1024, 16, 16)."""
        cells = _get_variant(options).cells
        return tokens[0][:, 1:].mT.unflatten(2, (cells, cells))


ADAPTER = RemoteCLIP()
