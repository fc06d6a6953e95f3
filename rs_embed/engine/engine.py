"""The engine: images through an adapter in batches, once for all models; tiles, crops, devices and precision are here.

Reproducible by construction: every forward pass has the same number of images (the last batch is padded), each worker
uses one intra-op thread, and images meet only images of their own shape. So an embedding's bits do not depend on the
chunk, the order, the number of workers or of cores; only on the batch size (within 1e-5) and the device.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..machine.cores import Share, Turn
from ..machine.devices import resolve
from ..models.base import Adapter, Image
from ..planning.model_info import Prep
from ..request.specs import OutputSpec
from ..weights.checkpoints import Checkpoint
from . import torch_device as on
from .preprocessing import Input, inputs
from .tiled_image import Embedding, Pieces, pieces_of

if TYPE_CHECKING:
    import numpy as np

#: Inputs of one shape wait for a full batch; when this many batches' worth of inputs wait in all, the shape that has
#: waited longest is run padded. Bounds memory for ROIs of many shapes.
_WAITING_BATCHES = 8
#: Threads that read and preprocess, at most; on a CPU it is one for so many forward passes at a time, and one at least.
_READERS, _CORES_A_READER = 8, 4


@dataclass(frozen=True)
class Settings:
    """How a unit is run: none of it is in an identity.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        batch: images per forward pass.
        workers: threads over whole batches, and how many may be at work; two on an accelerator, so that one prepares while the
            other computes.
        readers: threads that read and preprocess images ahead of them.
    """

    device: str
    batch: int
    workers: Share
    readers: int = 1


def settings(adapter: Adapter, device: str, batch: int | None, threads: Share) -> Settings:
    """Settings of a job: device resolved with torch, batch from the request or the model's default for the device."""
    kind = resolve(device)
    batch = batch or adapter.info.batch.get(kind, 1)
    if kind == "cpu":
        return Settings(kind, batch, threads, max(1, min(threads.own // _CORES_A_READER, _READERS)))
    return Settings(kind, batch, Share(2), max(1, min(threads.own, _READERS)))


class Engine:
    """A loaded model. Use as a context manager: its weights are released at the end.

    Args:
        adapter, options, modality, bands, output: the unit.
        how: device, batch and threads.
        weights: where its weights are, None for a model without.
        prep: the large-image policy.
        precision: ``"fp32"`` or ``"bf16"``.
    """

    def __init__(
        self,
        adapter: Adapter,
        options: Any,
        modality: str,
        bands: tuple[str, ...],
        output: OutputSpec,
        how: Settings,
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
        self.adapter, self.options, self.output, self.how, self.prep = adapter, options, output, how, prep
        network = adapter.load(options, modality, bands, weights)
        self.said = adapter.record(network, options)
        self._exact = None  # what the first image is compared with
        if precision == "bf16":
            self._exact = on.shortened(network).to(how.device)
            network = on.lowered(network)
        self.network = network.to(how.device)
        self._size = how.batch
        self._lock, self.turn = threading.Lock(), Turn(how.workers)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.network = self._exact = None
        on.release(self.how.device)

    def run(
        self, items: Iterable[tuple[Any, Image | Callable[[], Image]]]
    ) -> Iterator[tuple[Any, Embedding | Exception]]:
        """Embed images, or what reads them when called; yields (key, embedding) or (key, error) in the order batches finish.

        An error of one image's reading or preprocessing is its own; an error of a forward pass is that of every image in
        it. What tiles and squares come to is said in :mod:`rs_embed.engine.tiled_image`.
        """
        waiting: dict[tuple, list[Input]] = collections.OrderedDict()
        running: set[Future] = set()
        batch, workers, names = self.how.batch, self.how.workers, {"thread_name_prefix": "forward"}
        with ThreadPoolExecutor(self.how.readers) as readers, ThreadPoolExecutor(workers.most, **names) as pool:
            ahead = {"images": 2 * self.how.readers, "pieces": max(batch, 2 * self.how.readers)}
            for key, found in inputs(items, self._cut, self._preprocess, readers, **ahead):
                if isinstance(found, Exception):
                    yield key, found
                    continue
                waiting.setdefault(found.shape, []).append(found)
                if len(waiting[found.shape]) == batch:
                    running.add(pool.submit(self._forward, waiting.pop(found.shape)))
                elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch:
                    running.add(pool.submit(self._forward, waiting.pop(next(iter(waiting)))))
                while len(running) > 2 * workers.now():
                    running = yield from _collect(running)
            running |= {pool.submit(self._forward, rest) for rest in waiting.values()}
            while running:
                running = yield from _collect(running)

    def _cut(self, key: Any, image: Image) -> Pieces:
        return pieces_of(self.adapter, self.options, self.prep, self.output, key, image)

    def _preprocess(self, image: Image) -> dict[str, np.ndarray]:
        return self.adapter.preprocess(image, self.options)

    # forward passes --------------------------------------------------------------------------------------------

    def _forward(self, batch: list[Input]) -> list[tuple[Input, np.ndarray | Exception]]:
        """Results of inputs of one shape, when a worker may. Where the memory does not suffice the batch is halved, for good."""
        with self.turn:
            return self._results(batch)

    def _results(self, batch: list[Input]) -> list[tuple[Input, np.ndarray | Exception]]:
        while True:
            size = self._size
            try:
                parts = (batch[start : start + size] for start in range(0, len(batch), size))
                rows = [_finite(row) for part in parts for row in self._rows(part, size)]
                for one in batch:
                    one.pieces.batch = size
                return list(zip(batch, rows, strict=True))
            except Exception as error:
                if not (on.out_of_memory(error) and size > 1):
                    return [(one, error) for one in batch]
            self._halve(size)

    def _halve(self, size: int) -> None:
        with self._lock:
            if self._size == size:  # unless another worker has
                self._size = size // 2
                text = f"{self.adapter.info.id}: out of memory with {size} images a batch, going on with {self._size}"
                print(f"rs-embed: {text} (infer_batch_size={self._size} spares the attempt)", file=sys.stderr)
        on.release(self.how.device)

    def _rows(self, batch: list[Input], size: int) -> np.ndarray:
        """One forward pass of exactly ``size`` images; missing ones repeat the first. (len(batch), ...) float32."""
        import torch

        padded = [one.arrays for one in batch] + [batch[0].arrays] * (size - len(batch))
        with torch.inference_mode():
            tensors = {n: on.placed([arrays[n] for arrays in padded], self.how.device) for n in padded[0]}
            made = self._asked(self.network, tensors, batch[0].pieces.kind)
            if self._exact is not None:
                self._check({n: t[:1] for n, t in tensors.items()}, batch[0].pieces.kind)
            return made[: len(batch)].float().cpu().numpy()

    def _asked(self, network: Any, tensors: dict, kind: str) -> Any:
        tokens = self.adapter.forward(network, tensors, self.options)
        if kind == "own":
            return self.adapter.pooled(tokens, self.output, self.options)
        return self.adapter.grid(tokens, OutputSpec.grid(self.output.pooling), self.options)

    def _check(self, first: dict, kind: str) -> None:
        """Once: the first image through the first block, in both precisions."""
        with self._lock:
            if self._exact is not None:
                found, wanted = (self._asked(n, first, kind) for n in (on.shortened(self.network), self._exact))
                on.check(found, wanted, self.how.device)
                self._exact = None


def _finite(row: np.ndarray) -> np.ndarray | Exception:
    """A result, or the error of one that is no embedding: NaN stands for what is not there."""
    import numpy as np

    if np.isfinite(row).all():
        return row
    return ModelError(
        "the embedding has NaN or infinity; allowed: imagery without extreme values, such as 1e36 for no data"
    )


def _collect(running: set[Future]) -> Iterator[tuple[Any, Embedding | Exception]]:
    """Wait for a batch; gives the images that are complete with it, and returns the batches that still run."""
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        for one, row in future.result():
            if isinstance(row, Exception):
                if not one.pieces.failed:
                    one.pieces.failed = True
                    yield one.pieces.key, row
            elif (whole := one.pieces.add(one.number, row)) is not None:
                yield one.pieces.key, whole
    return rest  # type: ignore[return-value]
