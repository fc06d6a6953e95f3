"""A record per ROI, restored from what a manifest stores once (``formats/record_defaults.py``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any, overload

from ..formats import record_defaults
from .manifest_lines import as_list


class ImageRecords:
    """The images of one source: a record per ROI.

    Args:
        entry: the entry of the source in the manifest's ``imagery``.
    """

    #: Keys of a record of an image.
    KEYS = ("crs", "shape", "affine", "roi", "dates", "date_is", "fetched")

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.default = entry.get("default") or {}
        #: The differences of each record from the default; None where a ROI has no image.
        self.rows = as_list(entry.get("rows"))
        self._scenes = as_list(entry.get("scenes"))
        self._scene_default = entry.get("scene_default") or {}
        self.read_scene = functools.lru_cache(maxsize=4096)(self._read_scene)

    def _read_scene(self, index: int) -> Any:
        scene = self._scenes[index]
        return record_defaults.restore_record(scene, self._scene_default) if isinstance(scene, Mapping) else scene

    def _restore(self, row: Mapping[str, Any] | None) -> dict[str, Any]:
        return {} if row is None else record_defaults.restore_record(row, self.default)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._restore(self.rows[row])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._restore, self.rows)


class Records(Sequence[Any]):
    """A record per ROI, None where the ROI has none; each is read on access.

    Args:
        n: number of ROIs.
        read_one: reads the record of a ROI.
        read_all: reads all records in order, where that is faster.
        select: reads some keys of all records, see :meth:`select`, where that is faster.
    """

    def __init__(
        self,
        n: int,
        read_one: Callable[[int], dict[str, Any] | None],
        read_all: Callable[[], Iterable[dict[str, Any] | None]] | None = None,
        select: Callable[[Sequence[str]], Iterator[tuple[Any, ...]]] | None = None,
    ) -> None:
        self._n, self._read_one, self._select = n, read_one, select
        self._read_all = read_all or (lambda: map(read_one, range(n)))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, which: int) -> dict[str, Any] | None: ...

    @overload
    def __getitem__(self, which: slice) -> list[dict[str, Any] | None]: ...

    def __getitem__(self, which: int | slice) -> Any:
        if isinstance(which, slice):
            return [self._read_one(i) for i in range(*which.indices(self._n))]
        return self._read_one(range(self._n)[which])

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        return iter(self._read_all())

    def select(self, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of some keys of every record, None where missing; faster than whole
        records."""
        if self._select is not None:
            return self._select(keys)
        return (tuple((record or {}).get(k) for k in keys) for record in self)


def build_model_records(n: int, label: str, entry: Mapping[str, Any], images: ImageRecords | None) -> Records:
    """The records of a model in a combined manifest: its rows with their default and the records
    of its images."""
    rows, default = as_list(entry.get("metas")), entry.get("meta_default") or {}

    def restore(row: Any, image: dict[str, Any]) -> dict[str, Any] | None:
        if not isinstance(row, Mapping):
            return None
        if images is None:
            return dict(row)
        record = record_defaults.drop_nulls({"model": label, **image, **record_defaults.apply_default(row, default)})
        restored: dict[str, Any] = record_defaults.restore_scenes(record, images.read_scene)
        return restored

    def read_one(index: int) -> dict[str, Any] | None:
        row = rows[index] if index < len(rows) else None
        return restore(row, images[index]) if row is not None and images is not None else restore(row, {})

    def read_all() -> Iterator[dict[str, Any] | None]:
        records = map(restore, rows, images if images is not None else repeat({}))
        return (next(records, None) for _ in range(n))

    def select(keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        return islice(chain(_select_keys(keys, rows, default, images), repeat((None,) * len(keys))), n)

    return Records(n, read_one, read_all, select)


def _select_keys(
    keys: Sequence[str], rows: Sequence[Any], default: Mapping[str, Any], images: ImageRecords | None
) -> Iterator[tuple[Any, ...]]:
    """The values of some keys of the rows of a model, without building whole records."""
    uses_images = images is not None and set(keys) & set(images.KEYS)
    image_rows = images.rows if images is not None and uses_images else repeat({})
    defaults = [(k, default.get(k), images.default.get(k) if images is not None else None) for k in keys]
    for row, image in zip(rows, image_rows):
        if not isinstance(row, Mapping):
            yield (None,) * len(keys)
            continue
        image = image or {}
        yield tuple(
            _read_value(row, key, usual) if key in row else usual if usual is not None else image.get(key, image_usual)
            for key, usual, image_usual in defaults
        )


def _read_value(row: Mapping[str, Any], key: str, usual: Any) -> Any:
    value = row[key]
    return record_defaults.restore_record({key: value}, {key: usual}).get(key) if isinstance(usual, Mapping) else value
