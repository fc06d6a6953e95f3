"""What every job uses: parts of the plan by their names in its command line, its error, and the
time that it took."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ...errors import RSEmbedError
from ...planning.plan import Chunk, Part
from ...planning.units import Source, Unit
from ...runs.run import Run

_T = TypeVar("_T")


class StageError(RSEmbedError):
    """A job that stops; the text names ROI, model and stage. Everything it finished is kept."""


def make_stage_error(stage: str, roi: str, model: str, error: BaseException) -> StageError:
    """The error of a job that stops at its first failure (``continue_on_error=False``)."""
    what = str(error) if isinstance(error, RSEmbedError) else f"{type(error).__name__}: {error}"
    return StageError(f"{stage} failed for ROI {roi!r}, model {model}: {what}")


def format_readers(run: Run, source_id: str) -> str:
    """The models that read a source, for messages."""
    return ", ".join(u.label for u in run.plan.units if source_id in run.plan.unit_sources(u))


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


def utc_now() -> str:
    """The time in RFC 3339, UTC, whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def measure_job(started: float) -> dict:
    """What a job has used, for its receipt: wall seconds of the stage since ``started``
    (``time.monotonic()``), CPU seconds and the peak memory (MB) of the whole process, and the time
    at which it finished."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB; bytes on macOS
    return {
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mb": round(peak / (1e6 if sys.platform == "darwin" else 1024)),
        "finished": utc_now(),
    }
