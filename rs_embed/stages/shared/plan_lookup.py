"""Chunks, parts, units and sources of a plan by the names in a job's command line, and rows of the
table by object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ...planning.plan import Chunk, Part
from ...planning.units import Source, Unit
from ...runs.run import Run
from .stage_error import StageError

_T = TypeVar("_T")


def find_chunk(run: Run, name: str) -> Chunk:
    """A chunk by name.

    Raises:
        StageError: the plan has no such chunk, in words for a user at a shell; so do the functions
            below.
    """
    return _find(run.plan.chunk, name, "chunk")


def find_part(run: Run, name: str) -> Part:
    """A part by name."""
    return _find(run.plan.parts, name, "part")


def find_unit(run: Run, name: str) -> Unit:
    """A unit by id."""
    return _find(run.plan.unit, name, "unit")


def find_source(run: Run, name: str) -> Source:
    """A source by id."""
    return _find(run.plan.source, name, "source")


def _find(entries: Mapping[str, _T], name: str, kind: str) -> _T:
    if name not in entries:
        raise StageError(f"{kind} {name!r} is not in the plan of {len(entries)}: {', '.join(list(entries)[:3])}, ...")
    return entries[name]


def group_by_object(objects: Sequence[str], indices: Iterable[int]) -> dict[str, list[int]]:
    """Rows of the table by the object they name, so that a ROI that occurs twice is processed
    once."""
    found: dict[str, list[int]] = {}
    for index in indices:
        found.setdefault(objects[index], []).append(index)
    return found
