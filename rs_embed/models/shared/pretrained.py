"""What adapters with published weights share: their common options, and loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...planning.model_info import RANDOM
from ...request.fields import check, option
from ...weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PretrainedOptions:
    """Options that every family with weights has."""

    preset: str = option(
        "official", "recipe: the authors' own, or what rs-embed 0.3.1 computes", choices=("official", "rs-embed")
    )
    weights: str | None = option(
        None, f"path of a weights file, or {RANDOM!r} (tests and benchmarks only); null: the published file"
    )
    seed: int = option(0, f"seed of weights={RANDOM!r}", minimum=0, maximum=2**63 - 1)

    def __post_init__(self) -> None:
        check(self, "model_config", ModelError)


class Pretrained:
    """Base of an adapter with weights: a family gives :meth:`build` and :meth:`rename`."""

    #: prefixes that published files may have before all names of the network's tensors, the most likely first
    prefixes: Sequence[str] = ("",)

    def build(self, options: Any, modality: str, bands: tuple[str, ...]) -> nn.Module:
        """The architecture, usually a ``vit.Network``; made on the meta device, its parameters are filled from the file."""
        raise NotImplementedError

    def prepare(self, network: nn.Module, options: Any, modality: str) -> None:
        """Compute what is not loaded (position tables, resized kernels) from the filled parameters; see ``vit.Network.derive``."""

    def rename(self, name: str, options: Any, modality: str) -> str | None:
        """The network's name of a published tensor (without prefix); None for one that the forward does not use. A name that
        is returned and that the network lacks is an error: the file is of another variant."""
        raise NotImplementedError

    def load(self, options: Any, modality: str, bands: tuple[str, ...], weights: Checkpoint | None) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU, float32.

        Raises:
            ModelError: the file cannot be read, or does not fit; it names the file and the tensors.
        """
        import torch

        from ...weights.loading import fill

        with torch.device("meta"):
            network = self.build(options, modality, bands)
        network.said = fill(network, weights, lambda name: self.rename(name, options, modality), self.prefixes)
        network.requires_grad_(False).eval()
        self.prepare(network, options, modality)
        return network

    def record(self, network: Any, options: Any) -> dict:
        """What the manifest says of the weights: ``pretrained``, ``sha256`` and where they are from."""
        return network.said
