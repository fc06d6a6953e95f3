"""A function over what a stream gives, some results ahead, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


#: Bytes of items that are held ahead, about.
MOST_BYTES = 1 << 28


def ahead(call: Callable[[T], R], items: Iterable[T], threads: int, size: Callable[[T], int]) -> Iterator[R]:
    """Results of ``call``, in the order of ``items``. Held are two items for each thread, and no more than 256 MB of them, or one.

    Args:
        threads: with one, everything happens in the caller's.
        size: bytes of an item.
    """
    if threads < 2:
        yield from map(call, items)
        return
    waiting: deque[tuple[int, Future[R]]] = deque()
    held = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="deflate") as pool:
        try:
            for item in items:
                waiting.append((size(item), pool.submit(call, item)))
                held += waiting[-1][0]
                del item  # the caller's next one comes while results are waited for
                while len(waiting) >= 2 * threads or (waiting and held >= MOST_BYTES):
                    bytes_, first = waiting.popleft()
                    yield first.result()
                    held -= bytes_
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
