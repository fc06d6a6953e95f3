"""What the stages share: reading chips, stopping with a good message, times."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ...errors import RSEmbedError, StoreError
from ...planning.plan import Chunk, Part
from ...planning.units import Source, Unit
from ...runs.run import Run

if TYPE_CHECKING:
    import numpy as np

    from ...store.store import Group, Object


class StageError(RSEmbedError):
    """A job that stops; the text names ROI, model and stage. Everything it finished is kept."""


def now() -> str:
    """The time in RFC 3339, UTC, whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spent(started: float) -> dict:
    """What a receipt says of its job: wall seconds of the stage since ``started`` (``time.monotonic()``), CPU seconds and
    the most memory (MB) of the whole process, and when it was done."""
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB; bytes on macOS
    return {
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mb": round(most / (1e6 if sys.platform == "darwin" else 1024)),
        "finished": now(),
    }


def stop(stage: str, roi: str, model: str, error: Exception) -> StageError:
    """The error of a job that stops at its first failure (``continue_on_error=False``)."""
    what = str(error) if isinstance(error, RSEmbedError) else f"{type(error).__name__}: {error}"
    return StageError(f"{stage} failed for ROI {roi!r}, model {model}: {what}")


def models_of(run: Run, source_id: str) -> str:
    """The models that read a source, for messages."""
    return ", ".join(u.label for u in run.plan.units if u.source == source_id)


def read_checked(group: Group, name: str) -> Object:
    """Read an object; a damaged one is moved aside, so that the next start (see ``prepare.py``) makes it again.

    Raises:
        StoreError: it is damaged or gone.
    """
    try:
        return group.read(name)
    except StoreError as error:
        group.set_aside(name)
        raise StoreError(f"{error}; it was moved to {name}.npy.damaged; run again to make it anew") from None
    except FileNotFoundError:
        raise StoreError(f"object {group.path(name)} is gone; run again to make it anew") from None


def read_chip(
    run: Run, source_id: str, bands: Sequence[str], name: str, read: Callable[[Group, str], Object] | None = None
) -> tuple[np.ndarray | None, dict]:
    """Pixels of a stored object in the order of ``bands`` from one or several stored chips, with their metadata.

    Args:
        read: how an object is read, where the same one is asked for several times; else :func:`read_checked`.

    Returns:
        ((C, H, W) or (T, C, H, W) pixels, metadata), or (None, metadata) where there is no imagery.

    Raises:
        StoreError: a chip is damaged or gone.
    """
    import numpy as np

    store, union = run.store, run.plan.source[source_id].bands  # what a fetch looks for: nothing is missing only here
    use, missing = store.covering(source_id, tuple(bands), name, store.band_sets(source_id, union))
    if missing:
        raise StoreError(f"the chip {name} lacks the bands {', '.join(missing)}; run again to fetch them")
    chips = [(read or read_checked)(store.chips(source_id, held), name) for held in use]
    holder = {b: c for c in reversed(chips) for b in c.meta["bands"]}
    # of the bands that were asked for, whatever they were fetched together with
    coverage = [holder[b].meta["coverage"][b] for b in bands]
    said = dict.fromkeys(s for b in bands for s in holder[b].meta.get("said", {}).get(b, ()))
    meta = chips[0].meta | {"valid": sum(coverage) / len(coverage), "warnings": list(said)}
    if not any(coverage):
        return None, meta | {"status": "no_data"}
    meta["status"] = "ok"
    if len(chips) == 1 and list(bands) == meta["bands"]:
        return chips[0].array, meta
    planes = {b: c.array[..., c.meta["bands"].index(b), :, :] for b, c in holder.items() if c.array.size}
    shape, fill = next(iter(planes.values())).shape, run.plan.source[source_id].identity["fill_value"]
    empty = {b: np.full(shape, fill, c.array.dtype) for b, c in holder.items() if b not in planes}
    return np.stack([(planes | empty)[b] for b in bands], axis=-3), meta


def needed_bands(run: Run, source: Source, name: str) -> tuple[str, ...]:
    """The bands of an object that something in this run will read: all where inputs are saved, else those of the models
    that have no embedding of it yet."""
    if run.request.config.save_inputs:
        return source.bands
    readers = [u for u in run.plan.embedded if u.source == source.id and not run.store.embeddings(u.id).has(name)]
    return tuple(b for b in source.bands if any(b in u.sensor.bands for u in readers))


def by_object(objects: Sequence[str], indices: Iterable[int]) -> dict[str, list[int]]:
    """Rows of the table by the object they name: a place that is there twice is worked on once."""
    found: dict[str, list[int]] = {}
    for index in indices:
        found.setdefault(objects[index], []).append(index)
    return found


def chunk_of(run: Run, name: str) -> Chunk:
    """A chunk by name, or an error that a person at a shell understands."""
    return _known(run.plan.chunk, name, "chunk")


def part_of(run: Run, name: str) -> Part:
    """A part by name."""
    return _known(run.plan.parts, name, "part")


def unit_of(run: Run, name: str) -> Unit:
    """A unit by id."""
    return _known(run.plan.unit, name, "unit")


def source_of(run: Run, name: str) -> Source:
    """A source by id."""
    return _known(run.plan.source, name, "source")


def _known(things: dict, name: str, kind: str):  # noqa: ANN202
    if name not in things:
        raise StageError(f"{kind} {name!r} is not in the plan of {len(things)}: {', '.join(list(things)[:3])}, ...")
    return things[name]
