"""Groups of small objects, for tests of packs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rs_embed.store.groups import Group
from rs_embed.store.objects import write_object

META = {"status": "ok", "bands": ["B2"]}


def write_loose(group: Group, values: dict[str, list[float]]) -> dict[str, bytes]:
    """Write loose objects; returns their bytes."""
    for name, numbers in values.items():
        write_object(group.path(name), np.array(numbers), META)
    return {name: group.path(name).read_bytes() for name in values}


def make_values(count: int, start: int = 0) -> dict[str, list[float]]:
    return {f"{i * 0x0123456789ABCDEF0123456789AB + i:032x}": [i, 2 * i] for i in range(start, start + count)}


def list_files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def check_objects(folder: Path, values: dict[str, list[float]]) -> None:
    """Assert that a new reader finds every object intact."""
    group = Group(folder)
    for name, numbers in values.items():
        assert group.has(name) and group.read(name).array.tolist() == list(map(float, numbers))
        assert group.verify(name).meta == group.read_metadata(name).meta == META
