"""Ordered results of a function that threads call for the items of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


#: Approximate limit for the bytes of items in memory.
MAX_BYTES = 1 << 28


def map_in_order(call: Callable[[T], R], items: Iterable[T], threads: int, size: Callable[[T], int]) -> Iterator[R]:
    """Results of ``call``, in the order of ``items``.

    Two items per thread are in memory at most, and no more than 256 MB of them, or one.

    Args:
        threads: number of threads; with one, ``call`` runs in the thread of the caller.
        size: bytes of an item.
    """
    if threads < 2:
        yield from map(call, items)
        return
    waiting: deque[tuple[int, Future[R]]] = deque()
    in_memory = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="deflate") as pool:
        try:
            for item in items:
                waiting.append((size(item), pool.submit(call, item)))
                in_memory += waiting[-1][0]
                del item  # frees its memory while the next results are awaited
                while len(waiting) >= 2 * threads or (waiting and in_memory >= MAX_BYTES):
                    item_bytes, first = waiting.popleft()
                    yield first.result()
                    in_memory -= item_bytes
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
