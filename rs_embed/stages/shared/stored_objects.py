"""Reading chips and embeddings from the store, and which bands of a chip a run needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...errors import StoreError
from ...planning.units import Source
from ...providers.composite import composite_dtype
from ...runs.run import Run

if TYPE_CHECKING:
    import numpy as np

    from ...store.groups import Group
    from ...store.objects import Object


def read_checked(group: Group, name: str) -> Object:
    """Read an object; a damaged one is moved aside, so that the next start (``prepare.py``) has it
    computed again.

    Raises:
        StoreError: it is damaged or missing.
    """
    try:
        return group.read(name)
    except StoreError as error:
        group.set_aside(name)
        raise StoreError(f"{error}; it was moved to {name}.npy.damaged; run again to create it again") from None
    except FileNotFoundError:
        raise StoreError(f"object {group.path(name)} is missing; run again to create it again") from None


def read_chip(
    run: Run, source_id: str, bands: Sequence[str], name: str, read: Callable[[Group, str], Object] = read_checked
) -> tuple[np.ndarray | None, dict]:
    """Pixels of a stored object in the order of ``bands`` from one or several stored chips, with
    their metadata.

    Args:
        read: how an object is read, where the same one is needed several times.

    Returns:
        ((C, H, W) or (T, C, H, W) pixels, metadata), or (None, metadata) where there is no
        imagery.

    Raises:
        StoreError: a chip is damaged or missing.
    """
    chips = _read_stored_chips(run, source_id, bands, name, read)
    chip_of_band = {band: chip for chip in reversed(chips) for band in chip.meta["bands"]}
    # of the requested bands, whichever other bands were fetched together with them
    coverage = [chip_of_band[b].meta["coverage"][b] for b in bands]
    warnings = dict.fromkeys(s for b in bands for s in chip_of_band[b].meta.get("said", {}).get(b, ()))
    meta = chips[0].meta | {"valid": sum(coverage) / len(coverage), "warnings": list(warnings)}
    meta["coverage"] = dict(zip(bands, coverage))
    if not any(coverage):
        return None, meta | {"status": "no_data"}
    meta["status"] = "ok"
    if len(chips) == 1 and list(bands) == meta["bands"]:
        return chips[0].array, meta
    return _stack_bands(bands, chip_of_band, run.plan.source[source_id].identity["fill_value"]), meta


def _read_stored_chips(
    run: Run, source_id: str, bands: Sequence[str], name: str, read: Callable[[Group, str], Object]
) -> list[Object]:
    """Chips of a ROI that together have ``bands``."""
    # looked up with the bands of the whole source, as a fetch job does: what it finds is found by
    # its readers, too
    store, union = run.store, run.plan.source[source_id].bands
    use, missing = store.select_band_sets(source_id, tuple(bands), name, store.list_band_sets(source_id, union))
    if missing:
        raise StoreError(f"the chip {name} lacks the bands {', '.join(missing)}; run again to fetch them")
    return [read(store.chip_group(source_id, band_set), name) for band_set in use]


def _stack_bands(bands: Sequence[str], chip_of_band: dict[str, Object], fill: float) -> np.ndarray:
    """Bands of several chips in one array; a band without imagery is filled."""
    import numpy as np

    planes, dtypes = {}, {}
    for band, chip in chip_of_band.items():
        assert chip.array is not None
        dtypes[band] = chip.array.dtype
        if chip.array.size:
            planes[band] = chip.array[..., chip.meta["bands"].index(band), :, :]
    shape = next(iter(planes.values())).shape
    # the dtype of a chip without imagery need not represent the fill value: -9999 as uint8 is 241
    empty = {
        band: np.full(shape, fill, composite_dtype([dtype], 1, "mosaic", fill))
        for band, dtype in dtypes.items()
        if band not in planes
    }
    return np.stack([(planes | empty)[b] for b in bands], axis=-3)


def needed_bands(run: Run, source: Source, index: int) -> tuple[str, ...]:
    """The bands of the chip of a ROI that something in this run will read: those of all its models
    where inputs are saved, else those of the models that have no embedding of it yet."""
    if run.request.config.save_inputs:
        return run.plan.read_bands(source, [index])
    name = run.plan.object_names(source.id)[index]
    readers = [u for u in run.plan.readers(source.id, index) if not run.store.embedding_group(u.id).has(name)]
    return tuple(b for b in source.bands if any(b in u.sensor.bands for u in readers))
