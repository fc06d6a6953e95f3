"""MOSAIKS: random convolutional features, a strong baseline that needs no weights.

A pair of features is the mean over the image of ``relu(c - bias)`` and of ``relu(-c - bias)``,
with the response ``c = w * x`` of a random patch ``w`` over all bands. The patches are seeded
Gaussian noise (those of the paper are cut out of images; Gaussian noise needs no training
imagery).

Sources: Rolf et al. 2021, "A generalizable and accessible approach to machine learning with global
satellite imagery", Nature Communications 12, 4392, Methods (features, patch size 3, ReLU, average
pooling); the authors' ``mosaiks/featurization.py`` (``BasicCoatesNgNet``: the pair) and
``mosaiks/config.py`` (bias 0); torchgeo ``torchgeo/models/rcf.py`` (Gaussian patches, its own pair
and bias).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..planning.flops import InputShape, PassCost, convolution_flops
from ..planning.model_info import Modality, ModelInfo
from ..request.fields import option
from ..request.specs import OutputSpec, SensorSpec
from ..weights.checkpoints import Checkpoint
from .base import Image
from .shared.inputs import check_scaled_values, to_float32

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Filters convolved at a time: bounds memory to this many response maps, independent of the number
#: of features.
_FILTER_BLOCK = 64


@dataclass(frozen=True)
class Options:
    """Options of the random features."""

    preset: str = option("official", "recipe; this model has one", choices=("official", "rs-embed"))
    features: int = option(
        512, "length D of the vector; even: every patch gives a feature for each sign", minimum=2, maximum=65536
    )
    patch_size: int = option(3, "side of the random patches, pixels; odd", minimum=1, maximum=31)
    seed: int = option(0, "seed of the random patches", minimum=0, maximum=2**63 - 1)
    bias: float = option(0.0, "threshold of the ReLUs; torchgeo: -1")
    activation: str = option(
        "paper",
        "the two features of a response c: relu(c - bias) and relu(-c - bias), or torchgeo's relu(c + bias) and "
        "relu(-(c + bias)); the same for bias 0",
        choices=("paper", "torchgeo"),
    )
    input_scale: float = option(
        1e-4, "factor from the source's values to the model's (1e-4: DN to reflectance)", above=0
    )
    grid_cell: int = option(16, "grid output: side of a cell, pixels", minimum=1)

    def __post_init__(self) -> None:
        from ..request.fields import check_fields

        check_fields(self, "model_config", ModelError)
        for key, is_bad, allowed in (
            ("features", self.features % 2 != 0, "an even integer"),
            ("patch_size", self.patch_size % 2 == 0, "an odd integer"),
            (
                "grid_cell",
                self.grid_cell <= self.patch_size // 2,
                f"an integer > {self.patch_size // 2} (half the patch)",
            ),
        ):
            if is_bad:
                raise ModelError(f"model_config.{key}: {getattr(self, key)!r} is not valid; allowed: {allowed}")


def _compute_cost(options: Options, modality: str, shape: InputShape) -> PassCost:
    height, width, bands = shape.height, shape.width, shape.bands
    flops = convolution_flops(height, width, bands, options.patch_size, options.features // 2)
    cells = -(-height // options.grid_cell), -(-width // options.grid_cell)
    return PassCost(flops, bands * height * width, (options.features, *cells))


INFO = ModelInfo(
    id="mosaiks",
    version=2,
    summary="random convolutional features: no weights, any bands, any size",
    citation="Rolf et al. 2021, Nature Communications 12, 4392",
    licence="none needed (no pretrained weights)",
    modalities={
        "s2": Modality(
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B3", "B4", "B8"), modality="s2"),
            "DN (surface reflectance x 10000)",
        )
    },
    options=Options,
    dim=lambda options: options.features,
    aliases=("rcf",),
    needs_window=False,
    precisions=("fp32",),
    any_bands=True,
    smallest=lambda options: options.patch_size,
    cell=lambda options: options.grid_cell,
    # without a bias, both definitions of the features are the same
    canonical=lambda options, modality: replace(options, activation="paper") if options.bias == 0 else options,
    cost=_compute_cost,
    # ReLU and means cost as much as the convolution; measured on a CPU (make bench-rates)
    pace=0.16,
    # on a CPU one image uses a whole core, and a batch of one never needs padding
    batch={"cpu": 1, "cuda": 32, "mps": 8},
)


def draw_patches(options: Options, channels: int) -> np.ndarray:
    """The random patches, (features / 2, channels, patch_size, patch_size) float32, standard
    normal.

    PCG64 and numpy's normal sampler, seeded: the same on every platform.
    """
    import numpy as np

    shape = (options.features // 2, channels, options.patch_size, options.patch_size)
    return np.random.Generator(np.random.PCG64(options.seed)).standard_normal(shape, dtype=np.float32)


class Mosaiks:
    """Adapter of the random features."""

    info = INFO

    def load(
        self, options: Options, modality: str, bands: tuple[str, ...], weights: Checkpoint | None
    ) -> torch.nn.Module:
        """One convolution with frozen random patches."""
        import torch

        network = torch.nn.Conv2d(len(bands), options.features // 2, options.patch_size, bias=False)
        with torch.no_grad():
            network.weight.copy_(torch.from_numpy(draw_patches(options, len(bands))))
        return network.requires_grad_(False).eval()

    def preprocess(self, image: Image, options: Options) -> dict[str, np.ndarray]:
        """(C, H, W) float32 scaled pixels; non-finite ones become 0.

        Raises:
            ModelError: no value is finite, or ``input_scale`` does not fit the values.
        """
        import numpy as np

        pixels = to_float32(image)
        check_scaled_values(image, pixels, options.input_scale)
        return {"pixels": pixels[0] * np.float32(options.input_scale)}

    def forward(self, network: Any, batch: dict[str, torch.Tensor], options: Options) -> Any:
        """The patches and the pixels: response maps are computed block by block while they are
        pooled."""
        return network.weight, batch["pixels"]

    def _compute_features(self, tokens: Any, options: Options) -> Any:
        """Features of ``_FILTER_BLOCK`` patches at a time at every position, both signs: pairs of
        (B, K, H-p+1, W-p+1)."""
        import torch.nn.functional as F

        weight, pixels = tokens
        positive_bias = -options.bias if options.activation == "paper" else options.bias
        for start in range(0, weight.shape[0], _FILTER_BLOCK):
            response = F.conv2d(pixels, weight[start : start + _FILTER_BLOCK])
            # in place: memory for two maps
            yield (response + positive_bias).relu_(), response.neg_().sub_(options.bias).relu_()

    def pooled(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean (or max) over all positions: (B, D), positive features first, then negative
        ones."""
        import torch

        reduce = (lambda m: m.amax((2, 3))) if output.pooling == "max" else (lambda m: m.mean((2, 3)))
        blocks = [(reduce(a), reduce(b)) for a, b in self._compute_features(tokens, options)]
        return torch.cat([a for a, _ in blocks] + [b for _, b in blocks], dim=1)

    def grid(self, tokens: Any, output: OutputSpec, options: Options) -> torch.Tensor:
        """Mean (or max) over the pixels of a cell of ``grid_cell`` pixels: (B, D, ceil(H / cell),
        ceil(W / cell)). The last cells can have fewer pixels: those inside the image. The response
        of a pixel is the one centred on it; the ``patch_size // 2`` pixels at the border use the
        nearest one."""
        import torch
        import torch.nn.functional as F

        cell, margin = options.grid_cell, options.patch_size // 2
        height, width = tokens[1].shape[-2:]
        padding = (0, -width % cell, 0, -height % cell)

        def reduce(maps: torch.Tensor) -> torch.Tensor:
            maps = F.pad(maps, (margin,) * 4, mode="replicate")
            if output.pooling == "max":
                # responses are >= 0, so padded zeros are never the maximum
                return F.max_pool2d(F.pad(maps, padding), cell)
            count = F.avg_pool2d(F.pad(torch.ones_like(maps[:1, :1]), padding), cell)
            return F.avg_pool2d(F.pad(maps, padding), cell) / count

        blocks = [(reduce(a), reduce(b)) for a, b in self._compute_features(tokens, options)]
        return torch.cat([a for a, _ in blocks] + [b for _, b in blocks], dim=1)

    def describe_weights(self, network: Any, options: Options) -> dict:
        """The digest of the patches; nothing is pretrained, by design."""
        return {
            "pretrained": False,
            "by_design": True,
            "sha256": hashlib.sha256(network.weight.detach().cpu().numpy().tobytes()).hexdigest(),
        }


ADAPTER = Mosaiks()
