"""The record of one ROI: what manifests contain about it and each model. Reads, and so verifies,
every object of the ROI."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from ...errors import ModelError
from ...formats.arrays import ArrayMetadata, Row
from ...planning.units import Unit
from ...runs.run import Run
from ...store import receipts
from ..shared.jobs import make_stage_error
from ..shared.model_images import make_tensors
from ..shared.quality import assess_input, describe_missing_imagery, find_bad_input
from ..shared.stored_objects import read_checked, read_chip
from . import array_metadata, documents

if TYPE_CHECKING:
    import numpy as np


def build_roi_record(
    run: Run, index: int, rows: dict[tuple[str, int], dict]
) -> tuple[dict, list[tuple[ArrayMetadata, Row]]]:
    """The record of a ROI, and in per_item layout its arrays, for its file.

    Args:
        rows: receipt rows of the ROI's chunk, by unit or source id and ROI index.

    Raises:
        StoreError: an object is damaged; it was moved aside. StageError: a model refuses an input
            that it has no embed job for, without ``continue_on_error``.
    """
    plan, builder = run.plan, _RecordBuilder(run, index, rows)
    units = {}
    for unit in plan.units:
        units[unit.key] = builder.build_unit(unit)
        if plan.layout == "combined":  # the merge reads the arrays again
            builder.arrays.clear()
    parts = [part for unit in units.values() for part in unit.values() if isinstance(part, dict)]
    record = {
        "roi": plan.roi_ids[index],
        "index": index,
        "units": units,
        "status": _overall_status([unit["status"] for unit in units.values()]),
        "retryable": any(part.get("retryable", False) for part in parts),
    }
    return record, builder.arrays


def _overall_status(statuses: list[str]) -> str:
    if all(s == "failed" for s in statuses):
        return "failed"
    if "failed" in statuses:
        return "partial"
    return "ok" if "ok" in statuses else "no_data"


class _RecordBuilder:
    """Records of the units of one ROI; ``arrays`` collects what its file will contain."""

    def __init__(self, run: Run, index: int, rows: dict[tuple[str, int], dict]) -> None:
        self.run, self.index, self.rows = run, index, rows
        self.arrays: list[tuple[ArrayMetadata, Row]] = []
        self._read = functools.cache(read_checked)  # several models read the same chip
        self._saved: dict[tuple, str] = {}  # (source, bands): key of the unit that saves the pixels

    def build_unit(self, unit: Unit) -> dict:
        """The record of one unit."""
        config, record = self.run.request.config, {}
        if config.save_inputs:
            record["input"] = self._build_input(unit)
        if config.save_embeddings:
            record["embedding"] = self._build_embedding(unit)
        if config.save_inputs == "model" and all(part["status"] == "ok" for part in record.values()):
            record["model_inputs"] = self._build_model_inputs(unit)
        found = {part["status"] for part in record.values()}
        return {**record, "status": next(s for s in ("failed", "no_data", "ok") if s in found)}

    def _build_input(self, unit: Unit) -> dict:
        source = self.run.plan.chip_source(unit, self.index)
        pixels_of = (source, unit.sensor.bands)
        same_as = self._saved.get(pixels_of)
        self._saved.setdefault(pixels_of, unit.key)
        fetched = self.rows[source, self.index]
        if fetched["status"] == "failed":
            return {k: v for k, v in fetched.items() if k != "object"}
        pixels, meta = read_chip(self.run, source, unit.sensor.bands, self._object_name(unit), self._read)
        record = {k: meta[k] for k in ("status", "crs", "affine", "dates", "date_is", "fetched", "roi") if k in meta}
        is_embedded = unit in self.run.plan.embedded_units  # then the embedding's record has the quality
        if pixels is None:
            quality = {} if is_embedded else {"quality": describe_missing_imagery(meta)}
            return record | {"status": "no_data", "provenance": meta["provenance"]} | quality
        record |= _array_entry(pixels)
        if same_as is None:
            row = array_metadata.describe_row("input", pixels, meta)
            self.arrays.append((array_metadata.describe_array(unit, "input"), row))
        else:
            record["same_as"] = same_as
        record["provenance"] = meta["provenance"]
        if not is_embedded:
            fill = self.run.plan.source[source].identity["fill_value"]
            record["quality"] = assess_input(self.run, unit, pixels, meta, fill)
            if bad := find_bad_input(self.run, record["quality"]):
                record |= self._fail(unit, bad)  # its pixels are kept, as with an embed job that refuses them
        return record

    def _fail(self, unit: Unit, error: ModelError) -> dict:
        """The failed row of a unit without an embed job, which would have reported the error.

        Raises:
            StageError: without ``continue_on_error``.
        """
        if not self.run.request.config.continue_on_error:
            raise make_stage_error("write", self.run.plan.names[self.index], unit.label, error) from error
        return receipts.failure_row(error, "write")

    def _build_embedding(self, unit: Unit) -> dict:
        embedded = self.rows[unit.id, self.index]
        if embedded["status"] == "failed":
            return {k: v for k, v in embedded.items() if k != "object"}
        stored = read_checked(self.run.store.embedding_group(unit.id), self._object_name(unit))
        if stored.meta["status"] == "no_data":
            return {"status": "no_data", "meta": stored.meta}
        assert stored.array is not None
        row = array_metadata.describe_row("embedding", stored.array, stored.meta)
        self.arrays.append((array_metadata.describe_array(unit, "embedding"), row))
        return {"status": "ok", **_array_entry(stored.array), "meta": stored.meta}

    def _build_model_inputs(self, unit: Unit) -> dict:
        """The record of the tensors that enter the network, which are computed from the chip
        again."""
        try:
            tensors = make_tensors(self.run, unit, self.index)
        except ModelError as error:  # only with save_embeddings=False: otherwise the embed job has reported it
            return self._fail(unit, error)
        for name, tensor in tensors.items():
            metadata = array_metadata.describe_array(unit, documents.MODEL_INPUT + name)
            self.arrays.append((metadata, Row(tensor)))
        return {"status": "ok", "tensors": {name: _array_entry(tensor) for name, tensor in tensors.items()}}

    def _object_name(self, unit: Unit) -> str:
        return self.run.plan.object_names(unit.source)[self.index]


def _array_entry(array: np.ndarray) -> dict:
    """Shape, dtype and SHA-256 (of all bytes in C order) of an array."""
    import numpy as np

    sha256 = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": sha256}
