"""Common options and loading of adapters with published weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...planning.model_info import RANDOM
from ...request.fields import check_fields, option
from ...weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    from torch import nn

    from .vit import Network


@dataclass(frozen=True)
class PretrainedOptions:
    """Options of every family with weights."""

    preset: str = option(
        "official", "recipe: the authors' own, or what rs-embed 0.3.1 computes", choices=("official", "rs-embed")
    )
    weights: str | None = option(
        None, f"path of a weights file, or {RANDOM!r} (tests and benchmarks only); null: the published file"
    )
    seed: int = option(0, f"seed of weights={RANDOM!r}", minimum=0, maximum=2**63 - 1)

    def __post_init__(self) -> None:
        check_fields(self, "model_config", ModelError)


class Pretrained:
    """Base class of an adapter with weights: a family implements :meth:`build` and
    :meth:`rename`."""

    #: prefixes that all tensor names of a published file may have, the most likely first
    prefixes: Sequence[str] = ("",)

    def build(self, options: Any, modality: str, bands: tuple[str, ...]) -> Network:
        """The architecture. It is built on the meta device, and its parameters are filled from the
        file."""
        raise NotImplementedError

    def prepare(self, network: Network, options: Any, modality: str) -> None:
        """Compute what is not loaded (position tables, resized kernels) from the filled
        parameters; see :meth:`~.vit.Network.register_derived`."""

    def rename(self, name: str, options: Any, modality: str) -> str | None:
        """The network's name of a published tensor (without prefix); None for a tensor that the
        forward pass does not use. A name that the network does not have is an error: the file
        belongs to another variant."""
        raise NotImplementedError

    def load(self, options: Any, modality: str, bands: tuple[str, ...], weights: Checkpoint | None) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU, float32.

        Raises:
            ModelError: the file cannot be read, or does not fit; the message names the file and
                the tensors.
        """
        import torch

        from ...weights.loading import fill_network

        with torch.device("meta"):
            network = self.build(options, modality, bands)
        network.weights_record = fill_network(
            network, weights, lambda name: self.rename(name, options, modality), self.prefixes
        )
        network.requires_grad_(False).eval()
        self.prepare(network, options, modality)
        return network

    def describe_weights(self, network: Any, options: Any) -> dict:
        """What manifests contain about the weights: ``pretrained``, ``sha256`` and their
        source."""
        return network.weights_record
