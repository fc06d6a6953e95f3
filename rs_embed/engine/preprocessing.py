"""Images into the inputs of a network, made ahead of the forward passes by a few threads, in order, a bounded number at a time."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..models.base import Image
from .tiled_image import Pieces

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Input:
    """One piece of an image, preprocessed."""

    pieces: Pieces
    number: int
    arrays: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple:
        """What inputs must have in common to be in one batch."""
        arrays = sorted(self.arrays.items())
        return (self.pieces.kind, *((name, a.shape, a.dtype.str) for name, a in arrays))


def inputs(
    items: Iterable[tuple[Any, Image | Callable[[], Image]]],
    cut: Callable[[Any, Image], Pieces],
    preprocess: Callable[[Image], dict[str, np.ndarray]],
    readers: ThreadPoolExecutor,
    *,
    images: int,
    pieces: int,
) -> Iterator[tuple[Any, Input | Exception]]:
    """The inputs of every image, in order.

    Args:
        items: keys and images, or what reads them when called.
        cut: makes an image's pieces. preprocess: makes a piece's arrays.
        images, pieces: how many are made ahead.

    Yields:
        (key, input of one piece), or (key, error): one error for an image, whatever its pieces.
    """
    for made, future in _ahead(_pieces(items, cut, preprocess, readers, images), readers, pieces):
        key, error = made if isinstance(made, tuple) else (made.key, None)
        if error is None:
            if made.failed:  # its error was told
                continue
            try:
                yield key, future.result()
                continue
            except Exception as raised:
                made.failed, error = True, raised
        yield key, error


def _pieces(items: Iterable, cut: Callable, preprocess: Callable, readers: ThreadPoolExecutor, images: int) -> Iterator:
    """(pieces, task that makes one input), or ((key, error), None)."""
    reading = ((key, item if callable(item) else partial(_same, item)) for key, item in items)
    for key, future in _ahead(reading, readers, images):
        try:
            made = cut(key, future.result())
        except Exception as error:
            yield (key, error), None
            continue
        for number in range(made.count):
            yield made, partial(_input, made, number, preprocess)


def _ahead(
    tasks: Iterable[tuple[Any, Callable | None]], pool: ThreadPoolExecutor, limit: int
) -> Iterator[tuple[Any, Future | None]]:
    """Begin tasks in order, at most ``limit`` before the first of them is asked for."""
    begun: collections.deque[tuple[Any, Future | None]] = collections.deque()
    for tag, task in tasks:
        begun.append((tag, None if task is None else pool.submit(task)))
        if len(begun) > limit:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _same(image: Image) -> Image:
    return image


def _input(pieces: Pieces, number: int, preprocess: Callable[[Image], dict[str, np.ndarray]]) -> Input:
    return Input(pieces, number, preprocess(pieces.image(number)))
