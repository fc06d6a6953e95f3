"""What a manifest says of every ROI, put together again from what it says once (``formats/compact.py``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, overload

from ..formats import compact
from .scan import as_list


class Images:
    """The images of one source: a record per ROI."""

    def __init__(self, said: Mapping) -> None:
        self._default = said.get("default") or {}
        self._rows, self._scenes = as_list(said.get("rows")), as_list(said.get("scenes"))
        self._scene_default = said.get("scene_default") or {}
        self.scene = functools.lru_cache(maxsize=4096)(self._scene)

    def _scene(self, at: int) -> Any:
        found = self._scenes[at]
        return compact.whole(found, self._scene_default) if isinstance(found, Mapping) else found

    def __getitem__(self, row: int) -> dict:
        found = self._rows[row]
        return {} if found is None else compact.whole(found, self._default)

    def __iter__(self) -> Iterator[dict]:
        return ({} if found is None else compact.whole(found, self._default) for found in self._rows)


class Records(Sequence):
    """A record per ROI, None where there is none; read when it is asked for."""

    def __init__(
        self,
        n: int,
        one: Callable[[int], dict | None],
        every: Callable[[bool], Iterable[dict | None]] | None = None,
    ) -> None:
        self._n, self._one = n, one
        self._every = every or (lambda scenes: map(one, range(n)))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, which: int) -> dict | None: ...

    @overload
    def __getitem__(self, which: slice) -> list[dict | None]: ...

    def __getitem__(self, which: int | slice) -> Any:
        if isinstance(which, slice):
            return [self._one(i) for i in range(*which.indices(self._n))]
        return self._one(range(self._n)[which])

    def __iter__(self) -> Iterator[dict | None]:
        return iter(self._every(True))

    def without_scenes(self) -> Iterator[dict | None]:
        """All records; images may be numbers in a table of scenes (``scenes_at``), which is faster."""
        return iter(self._every(False))


def of_model(n: int, label: str, entry: Mapping, images: Images | None) -> Records:
    """The records of a model in a combined manifest: its rows, what most of them say, and what its images say."""
    rows, default = as_list(entry.get("metas")), entry.get("meta_default") or {}

    def whole(row: Any, image: dict, scenes: bool = True) -> dict | None:
        if not isinstance(row, Mapping):
            return None
        if images is None:
            return dict(row)
        said = compact.clean({"model": label, **image, **compact.merged(row, default)})
        return compact.resolve(said, images.scene) if scenes else said

    def one(index: int) -> dict | None:
        row = rows[index] if index < len(rows) else None
        return whole(row, images[index]) if row is not None and images is not None else whole(row, {})

    def every(scenes: bool) -> Iterator[dict | None]:
        found = map(whole, rows, images if images is not None else repeat({}), repeat(scenes))
        return (next(found, None) for _ in range(n))

    return Records(n, one, every)
