"""The engine: batches of images through an adapter, once for all models.

Reproducible by construction: every forward pass has the same number of images (the last batch is padded), each worker
uses one intra-op thread, and images meet only images of their own shape. So an embedding's bits do not depend on the
chunk, the order, the number of workers or of cores; only on the batch size (within 1e-5) and the device.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..devices import resolve
from ..geometry import crop
from ..specs import OutputSpec
from ..weights import Checkpoint
from .base import Adapter, Image

if TYPE_CHECKING:
    import numpy as np

#: Images of one shape wait for a full batch; when this many batches' worth of images wait in all, the shape that has
#: waited longest is run padded. Bounds memory for ROIs of many shapes.
_WAITING_BATCHES = 8


@dataclass(frozen=True)
class Settings:
    """How a unit is run: none of it is in an identity.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        batch: images per forward pass.
        workers: threads over whole batches (1 on accelerators).
    """

    device: str
    batch: int
    workers: int


def settings(adapter: Adapter, device: str, batch: int | None, threads: int) -> Settings:
    """Settings of a job: device resolved with torch, batch from the request or the model's default for the device."""
    kind = resolve(device)
    return Settings(kind, batch or adapter.info.batch.get(kind, 1), threads if kind == "cpu" else 1)


class Engine:
    """A loaded model. Use as a context manager: its weights are released at the end."""

    def __init__(
        self,
        adapter: Adapter,
        options: Any,
        modality: str,
        bands: tuple[str, ...],
        output: OutputSpec,
        how: Settings,
        weights: Checkpoint | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self.adapter, self.options, self.output, self.how = adapter, options, output, how
        self.network = adapter.load(options, modality, bands, weights).to(how.device)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.network = None
        if self.how.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    def run(self, images: Iterable[tuple[Any, Image]]) -> Iterator[tuple[Any, np.ndarray | Exception]]:
        """Embed images; yields (key, embedding float32) or (key, error) in the order batches finish.

        An error of one image's preprocessing is its own; an error of a forward pass is every image's of that batch.
        Of an image that was enlarged to a square, the grid is cropped back to the ROI, and a vector is the mean (or max) of
        the cropped grid: the model's own vector would describe the square.
        """
        waiting: dict[tuple, list[tuple[Any, dict, Any]]] = collections.OrderedDict()
        running: set[Future] = set()
        with ThreadPoolExecutor(self.how.workers, thread_name_prefix="forward") as pool:
            for key, image in images:
                try:
                    inputs = self.adapter.preprocess(image, self.options)
                except Exception as error:
                    yield key, error
                    continue
                shape = tuple((name, array.shape, array.dtype.str) for name, array in sorted(inputs.items()))
                shape = (image.roi is not None, shape)
                waiting.setdefault(shape, []).append((key, inputs, image.roi))
                if len(waiting[shape]) == self.how.batch:
                    running.add(pool.submit(self._batch, waiting.pop(shape)))
                elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * self.how.batch:
                    running.add(pool.submit(self._batch, waiting.pop(next(iter(waiting)))))
                while len(running) > 2 * self.how.workers:
                    running = yield from self._collect(running)
            running |= {pool.submit(self._batch, batch) for batch in waiting.values()}
            while running:
                running = yield from self._collect(running)

    @staticmethod
    def _collect(running: set[Future]) -> Iterator[tuple[Any, np.ndarray | Exception]]:
        done, rest = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield from future.result()
        return rest  # type: ignore[return-value]

    def _batch(self, items: list[tuple[Any, dict, Any]]) -> list[tuple[Any, np.ndarray | Exception]]:
        """One forward pass of exactly ``batch`` images; missing ones repeat the first."""
        import numpy as np
        import torch

        inputs = [i for _, i, _ in items]
        cropped = items[0][2] is not None
        inputs += [inputs[0]] * (self.how.batch - len(inputs))
        try:
            with torch.inference_mode():
                batch = {n: torch.from_numpy(np.stack([i[n] for i in inputs])).to(self.how.device) for n in inputs[0]}
                tokens = self.adapter.forward(self.network, batch, self.options)
                if self.output.mode == "pooled" and not cropped:
                    made = self.adapter.pooled(tokens, self.output, self.options)
                else:
                    made = self.adapter.grid(tokens, OutputSpec.grid(self.output.pooling), self.options)
                rows = made.float().cpu().numpy()
        except Exception as error:
            return [(key, error) for key, *_ in items]
        return [(key, self._of_roi(rows[i], roi)) for i, (key, _, roi) in enumerate(items)]

    def _of_roi(self, row: np.ndarray, roi: tuple[float, float, float, float] | None) -> np.ndarray:
        """One image's result, cropped back to the ROI."""
        if roi is None:
            return row.copy()
        rows, columns = crop(row.shape[1:], roi)
        part = row[:, rows, columns]
        if self.output.mode == "grid":
            return part.copy()
        return part.max(axis=(1, 2)) if self.output.pooling == "max" else part.mean(axis=(1, 2))
