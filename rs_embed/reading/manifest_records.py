"""What a manifest says of every ROI, put together again from what it says once (``formats/compact.py``)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, overload

from ..formats import record_defaults
from .manifest_lines import as_list


class Images:
    """The images of one source: a record per ROI."""

    #: What a record of an image has, for those who want little of it.
    keys = ("crs", "shape", "affine", "roi", "dates", "fetched")

    def __init__(self, said: Mapping) -> None:
        self.default = said.get("default") or {}
        self._rows, self._scenes = as_list(said.get("rows")), as_list(said.get("scenes"))
        self._scene_default = said.get("scene_default") or {}
        self.scene = functools.lru_cache(maxsize=4096)(self._scene)

    def _scene(self, at: int) -> Any:
        found = self._scenes[at]
        return record_defaults.whole(found, self._scene_default) if isinstance(found, Mapping) else found

    def rows(self) -> Sequence:
        """What each record says beyond the default."""
        return self._rows

    def __getitem__(self, row: int) -> dict:
        found = self._rows[row]
        return {} if found is None else record_defaults.whole(found, self.default)

    def __iter__(self) -> Iterator[dict]:
        return ({} if found is None else record_defaults.whole(found, self.default) for found in self._rows)


class Records(Sequence):
    """A record per ROI, None where there is none; read when it is asked for."""

    def __init__(
        self,
        n: int,
        one: Callable[[int], dict | None],
        every: Callable[[], Iterable[dict | None]] | None = None,
        some: Callable[[Sequence[str]], Iterator[tuple]] | None = None,
    ) -> None:
        self._n, self._one, self._some = n, one, some
        self._every = every or (lambda: map(one, range(n)))

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
        return iter(self._every())

    def some(self, keys: Sequence[str]) -> Iterator[tuple]:
        """The values of some keys of every record, None where there is none; faster than whole records."""
        if self._some is not None:
            return self._some(keys)
        return (tuple((record or {}).get(k) for k in keys) for record in self)


def of_model(n: int, label: str, entry: Mapping, images: Images | None) -> Records:
    """The records of a model in a combined manifest: its rows, what most of them say, and what its images say."""
    rows, default = as_list(entry.get("metas")), entry.get("meta_default") or {}

    def whole(row: Any, image: dict) -> dict | None:
        if not isinstance(row, Mapping):
            return None
        if images is None:
            return dict(row)
        said = record_defaults.clean({"model": label, **image, **record_defaults.merged(row, default)})
        return record_defaults.resolve(said, images.scene)

    def one(index: int) -> dict | None:
        row = rows[index] if index < len(rows) else None
        return whole(row, images[index]) if row is not None and images is not None else whole(row, {})

    def every() -> Iterator[dict | None]:
        found = map(whole, rows, images if images is not None else repeat({}))
        return (next(found, None) for _ in range(n))

    def some(keys: Sequence[str]) -> Iterator[tuple]:
        nothing = (None,) * len(keys)
        of_images = images.rows() if images is not None and set(keys) & set(images.keys) else repeat({})
        usual = [(k, default.get(k), images.default.get(k) if images is not None else None) for k in keys]
        for row, image in zip(rows, of_images):
            if not isinstance(row, Mapping):
                yield nothing
                continue
            image = image or {}
            yield tuple(
                _value(row, k, own) if k in row else own if own is not None else image.get(k, its)
                for k, own, its in usual
            )

    return Records(
        n, one, every, lambda keys: itertools.islice(itertools.chain(some(keys), repeat((None,) * len(keys))), n)
    )


def _value(row: Mapping, key: str, usual: Any) -> Any:
    value = row[key]
    return record_defaults.whole({key: value}, {key: usual}).get(key) if isinstance(usual, Mapping) else value
