"""Turns images into inputs of a network ahead of the forward passes, in threads and in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ModelError
from ..models.base import Image
from .tiled_image import TiledImage

if TYPE_CHECKING:
    import numpy as np

_Tag = TypeVar("_Tag")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class NetworkInput:
    """One tile of an image, preprocessed."""

    image: TiledImage
    number: int
    arrays: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple:
        """What inputs of one batch have in common."""
        arrays = sorted(self.arrays.items())
        return (self.image.output_kind, *((name, a.shape, a.dtype.str) for name, a in arrays))


def compute_inputs(preprocess: Callable[[Image], dict[str, np.ndarray]], image: Image) -> dict[str, np.ndarray]:
    """The inputs of a network for one image, as torch takes them, whatever the adapter returns:
    C-contiguous, in the machine's byte order, floats as float32, integers as they are.

    The kernel that torch chooses depends on the order in memory, so with one order the bits of an
    embedding do not depend on how an adapter has computed its arrays, or on the others of a batch.

    Raises:
        ModelError: from the adapter; or an array is not numeric.
    """
    import numpy as np

    from ..models.shared.inputs import round_to_float32

    inputs = {}
    for name, array in preprocess(image).items():
        if array.dtype.kind not in "biuf":
            raise ModelError(f"the adapter returns {name!r} of dtype {array.dtype}; allowed: integers or floats")
        values = round_to_float32(array) if array.dtype.kind == "f" else array
        inputs[name] = np.asarray(values, values.dtype.newbyteorder("="), order="C")
    return inputs


def preprocess_images(
    items: Iterable[tuple[Any, Image | Callable[[], Image]]],
    tile: Callable[[Any, Image], TiledImage],
    preprocess: Callable[[Image], dict[str, np.ndarray]],
    readers: ThreadPoolExecutor,
    *,
    images_ahead: int,
    tiles_ahead: int,
) -> Iterator[tuple[Any, NetworkInput | Exception]]:
    """The inputs of every image, in order.

    Args:
        items: keys and images, or functions that read them.
        tile: cuts an image. preprocess: computes the arrays of a tile.
        images_ahead, tiles_ahead: how many are read and preprocessed ahead.

    Yields:
        (key, input of one tile), or (key, error): one error per image, whatever the
            number of its tiles.
    """
    images = _submit_ahead(((key, partial(_read_image, item)) for key, item in items), readers, images_ahead)
    for (key, image), future in _submit_ahead(_list_tiles(images, tile, preprocess), readers, tiles_ahead):
        if image is not None and image.failed:  # the error of an image is reported once
            continue
        try:
            result: NetworkInput | Exception = future.result()
        except Exception as error:
            result = error
            if image is not None:
                image.failed = True
        yield key, result


def _list_tiles(
    images: Iterable[tuple[Any, Future[Image]]], tile: Callable, preprocess: Callable
) -> Iterator[tuple[tuple[Any, TiledImage | None], Callable[[], NetworkInput] | Exception]]:
    """(key, image) and the task that preprocesses a tile; (key, None) and the error of an image
    that cannot be read or cut."""
    for key, future in images:
        try:
            image = tile(key, future.result())
        except Exception as error:
            yield (key, None), error
            continue
        for number in range(image.count):
            yield (key, image), partial(_preprocess_tile, image, number, preprocess)


def _submit_ahead(
    tasks: Iterable[tuple[_Tag, Callable[[], _Result] | Exception]], pool: ThreadPoolExecutor, limit: int
) -> Iterator[tuple[_Tag, Future[_Result]]]:
    """Start tasks in order, at most ``limit`` before the result of the first one is used. An error
    counts as a failed task."""
    started: collections.deque[tuple[_Tag, Future[_Result]]] = collections.deque()
    for tag, task in tasks:
        if isinstance(task, Exception):
            future: Future[_Result] = Future()
            future.set_exception(task)
        else:
            future = pool.submit(task)
        started.append((tag, future))
        if len(started) > limit:
            yield started.popleft()
    while started:
        yield started.popleft()


def _read_image(item: Image | Callable[[], Image]) -> Image:
    return item() if callable(item) else item


def _preprocess_tile(image: TiledImage, number: int, preprocess: Callable) -> NetworkInput:
    return NetworkInput(image, number, compute_inputs(preprocess, image.tile(number)))
