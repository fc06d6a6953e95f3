"""Runs images through a model in batches, on one device, for all model families.

Results are reproducible by construction. Every forward pass has the same number of inputs (the
last batch is padded), each worker uses one intra-op thread, and a batch contains inputs of one
shape only. So the bits of an embedding do not depend on the chunk, the order, or the number of
workers or cores. They depend on the batch size (within 1e-5) and the device.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..machine.cores import CoreShare, ThreadLimit
from ..machine.devices import resolve_device
from ..models.base import Adapter, Image
from ..planning.model_info import Prep
from ..request.specs import OutputSpec
from ..weights.checkpoints import Checkpoint
from . import torch_device
from .preprocessing import NetworkInput, preprocess_images
from .tiled_image import Embedding, TiledImage, tile_image

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Inputs of one shape wait for a full batch. When this many batches' worth of inputs wait in all,
#: the shape that has waited longest runs padded. Bounds memory for ROIs of many shapes.
_WAITING_BATCHES = 8
#: Largest number of threads that read and preprocess; cores per such thread on a CPU.
_MAX_READERS, _CORES_PER_READER = 8, 4


@dataclass(frozen=True)
class Settings:
    """How a unit runs; none of it is in an identity.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        batch: inputs per forward pass.
        workers: threads over whole batches, and how many may run at a time; two on an accelerator,
            so that one prepares a batch while the other computes.
        readers: threads that read and preprocess images ahead of them.
    """

    device: str
    batch: int
    workers: CoreShare
    readers: int = 1


def resolve_settings(adapter: Adapter, device: str, batch: int | None, threads: CoreShare) -> Settings:
    """Settings of a job: device resolved with torch, batch from the request or the model's default
    for the device."""
    device = resolve_device(device)
    batch = batch or adapter.info.batch.get(device, 1)
    if device == "cpu":
        return Settings(device, batch, threads, max(1, min(threads.assigned // _CORES_PER_READER, _MAX_READERS)))
    return Settings(device, batch, CoreShare(2), max(1, min(threads.assigned, _MAX_READERS)))


class Engine:
    """A loaded model. Use as a context manager: its weights are released at the end.

    Args:
        adapter, options, modality, bands, output: of the unit.
        settings: device, batch and threads.
        weights: file of the weights; None for a model without weights.
        prep: the large-image policy.
        precision: ``"fp32"`` or ``"bf16"``.

    Attributes:
        weights_record: what manifests contain about the weights, from
            :meth:`Adapter.describe_weights`.
        thread_limit: limits the forward passes that run at a time.
    """

    def __init__(
        self,
        adapter: Adapter,
        options: Any,
        modality: str,
        bands: tuple[str, ...],
        output: OutputSpec,
        settings: Settings,
        weights: Checkpoint | None = None,
        prep: Prep = Prep("native"),
        precision: str = "fp32",
    ) -> None:
        import torch

        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # convolutions in float32 mean float32, as matrix products do by default
        torch.backends.cudnn.allow_tf32 = False
        self.adapter, self.options, self.output, self.settings, self.prep = adapter, options, output, settings, prep
        network = adapter.load(options, modality, bands, weights)
        self.weights_record = adapter.describe_weights(network, options)
        self._float32_reference: Any = None  # the first image is compared with it in bfloat16
        if precision == "bf16":
            self._float32_reference = torch_device.keep_first_block(network).to(settings.device)
            network = torch_device.to_bfloat16(network)
        self.network = network.to(settings.device)
        self._batch_size = settings.batch
        self._lock, self.thread_limit = threading.Lock(), ThreadLimit(settings.workers)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.network = self._float32_reference = None
        torch_device.release_memory(self.settings.device)

    def run(
        self, items: Iterable[tuple[Any, Image | Callable[[], Image]]]
    ) -> Iterator[tuple[Any, Embedding | Exception]]:
        """Embed images; yields (key, embedding) or (key, error) as batches finish.

        An error in reading or preprocessing concerns one image; an error in a forward pass
        concerns every image of the batch. :mod:`rs_embed.engine.tiled_image` describes how tiles
        and squares become embeddings.

        Args:
            items: keys and images, or functions that read them.
        """
        waiting: collections.OrderedDict[tuple, list[NetworkInput]] = collections.OrderedDict()
        running: set[Future] = set()
        batch, workers, ahead = self.settings.batch, self.settings.workers, 2 * self.settings.readers
        with (
            ThreadPoolExecutor(self.settings.readers) as readers,
            ThreadPoolExecutor(workers.maximum, thread_name_prefix="forward") as pool,
        ):
            limits = {"images_ahead": ahead, "tiles_ahead": max(batch, ahead)}
            for key, result in preprocess_images(items, self._tile, self._preprocess, readers, **limits):
                if isinstance(result, Exception):
                    yield key, result
                    continue
                waiting.setdefault(result.shape, []).append(result)
                if len(waiting[result.shape]) == batch:
                    running.add(pool.submit(self._forward, waiting.pop(result.shape)))
                elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch:
                    running.add(pool.submit(self._forward, waiting.pop(next(iter(waiting)))))
                while len(running) > 2 * workers.available():
                    running = yield from _collect(running)
            running |= {pool.submit(self._forward, inputs) for inputs in waiting.values()}
            while running:
                running = yield from _collect(running)

    def _tile(self, key: Any, image: Image) -> TiledImage:
        return tile_image(self.adapter, self.options, self.prep, self.output, key, image)

    def _preprocess(self, image: Image) -> dict[str, np.ndarray]:
        return self.adapter.preprocess(image, self.options)

    def _forward(self, batch: list[NetworkInput]) -> list[tuple[NetworkInput, np.ndarray | Exception]]:
        """Results of inputs of one shape. Waits for a free worker. Out of memory halves the batch
        size permanently."""
        with self.thread_limit:
            return self._compute_results(batch)

    def _compute_results(self, batch: list[NetworkInput]) -> list[tuple[NetworkInput, np.ndarray | Exception]]:
        while True:
            size = self._batch_size
            try:
                slices = (batch[start : start + size] for start in range(0, len(batch), size))
                rows = [_check_finite(row) for inputs in slices for row in self._compute_rows(inputs, size)]
                for one in batch:
                    one.image.batch = size
                return list(zip(batch, rows, strict=True))
            except Exception as error:
                if not (torch_device.is_out_of_memory(error) and size > 1):
                    return [(one, error) for one in batch]
            self._halve_batch_size(size)

    def _halve_batch_size(self, size: int) -> None:
        with self._lock:
            if self._batch_size == size:  # unless another worker has halved it
                self._batch_size = size // 2
                text = f"out of memory with {size} images per batch, continuing with {size // 2}"
                hint = f"infer_batch_size={size // 2} avoids this attempt"
                print(f"rs-embed: {self.adapter.info.id}: {text} ({hint})", file=sys.stderr)
        torch_device.release_memory(self.settings.device)

    def _compute_rows(self, batch: list[NetworkInput], size: int) -> np.ndarray:
        """One forward pass of exactly ``size`` inputs; copies of the first one pad the batch.
        (len(batch), ...) float32."""
        import torch

        padded = [one.arrays for one in batch] + [batch[0].arrays] * (size - len(batch))
        device, output_kind = self.settings.device, batch[0].image.output_kind
        with torch.inference_mode():
            tensors = {n: torch_device.stack_on_device([arrays[n] for arrays in padded], device) for n in padded[0]}
            result = self.run_network(self.network, tensors, output_kind)
            self._check_shape(tuple(result.shape), size, output_kind)
            if self._float32_reference is not None:
                self._check_precision({n: t[:1] for n, t in tensors.items()}, output_kind)
            return result[: len(batch)].float().cpu().numpy()

    def run_network(self, network: Any, tensors: dict[str, torch.Tensor], output_kind: str) -> torch.Tensor:
        """Vectors (B, D) of a batch of inputs where ``output_kind`` is ``"pooled"``, else grids
        (B, D, h, w)."""
        tokens = self.adapter.forward(network, tensors, self.options)
        if output_kind == "pooled":
            return self.adapter.pooled(tokens, self.output, self.options)
        return self.adapter.grid(tokens, OutputSpec.grid(self.output.pooling), self.options)

    def _check_shape(self, shape: tuple[int, ...], size: int, output_kind: str) -> None:
        """Refuse a result that is not what the interface of an adapter promises."""
        info, dim = self.adapter.info, self.adapter.info.dim(self.options)
        vectors = output_kind == "pooled"
        if shape != (size, dim) if vectors else len(shape) != 4 or shape[0] != size:
            method, allowed = ("pooled", f"({size}, {dim})") if vectors else ("grid", f"({size}, D, h, w)")
            raise ModelError(f"the adapter of {info.id} returns {method} of shape {shape}; allowed: {allowed}")

    def _check_precision(self, first: dict[str, torch.Tensor], output_kind: str) -> None:
        """Once: compare the first input after the first block in bfloat16 and float32."""
        with self._lock:
            if self._float32_reference is not None:
                networks = torch_device.keep_first_block(self.network), self._float32_reference
                bfloat16, float32 = (self.run_network(network, first, output_kind) for network in networks)
                torch_device.check_precision(bfloat16, float32, self.settings.device)
                self._float32_reference = None


def _check_finite(row: np.ndarray) -> np.ndarray | Exception:
    """A result, or the error of one with values that are not finite: in exports NaN means no
    data."""
    import numpy as np

    if np.isfinite(row).all():
        return row
    return ModelError(
        "the embedding has NaN or infinity; allowed: imagery without extreme values, such as 1e36 for no data"
    )


def _collect(running: set[Future]) -> Generator[tuple[Any, Embedding | Exception], None, set[Future]]:
    """Wait for a batch; yields the images that it completes, and returns the batches that still
    run."""
    done, still_running = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        for one, row in future.result():
            if isinstance(row, Exception):
                if not one.image.failed:
                    one.image.failed = True
                    yield one.image.key, row
            elif (embedding := one.image.add_result(one.number, row)) is not None:
                yield one.image.key, embedding
    return still_running
