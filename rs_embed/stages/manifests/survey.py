"""One pass over the records of a run: its arrays and their shapes, failures, and every ROI's
metadata.

Memory is some bytes per ROI and array; metadata goes through temporary files. The metadata of an
image (grid, dates, scenes) is kept once for its source, and for a unit only where it differs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...formats import record_defaults
from ...runs.run import Run
from ..shared import chunk_files
from ..shared.quality import kinds_of
from ..shared.run_result import ResultCounts
from .spool import Rows, Scenes, Spool

KINDS = ("input", "embedding")
#: Metadata of the image, whichever model reads it.
OF_IMAGE = ("crs", "affine", "shape", "roi", "dates", "date_is", "fetched", "provenance")


@dataclass
class Arrays:
    """The inputs, or the embeddings, of one unit over the whole run.

    Attributes:
        have: a byte per ROI, 1 where it has an array.
        digests: the first 8 bytes of each array's SHA-256 as a number, 0 where there is none.
        shapes, dtypes: those that occur.
        same_as: keys of the units for which equal arrays are saved; contains None where some are
            saved for this unit.
    """

    have: bytearray
    digests: array
    shapes: set[tuple] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    same_as: set[str | None] = field(default_factory=set)

    def add(self, index: int, entry: dict, same_as: str | None = None) -> None:
        """Add the array of a ROI, from its entry in a record."""
        self.have[index] = 1
        self.shapes.add(tuple(entry["shape"]))
        self.dtypes.add(entry["dtype"])
        self.same_as.add(same_as)

    @property
    def indices(self) -> Iterator[int]:
        """ROI indices that have an array."""
        return (i for i, has in enumerate(self.have) if has)

    @property
    def missing(self) -> Iterator[int]:
        """ROI indices that have no array."""
        return (i for i, has in enumerate(self.have) if not has)

    @property
    def own(self) -> bool:
        """Whether arrays are saved for this unit, and not for another one with equal arrays."""
        return any(self.have) and None in self.same_as

    @property
    def stackable(self) -> bool:
        """Whether all arrays have one shape, so that one array with a row for every ROI can
        contain them."""
        return any(self.have) and len(self.shapes) == 1

    @property
    def dtype(self) -> str:
        """The dtype that represents all of them exactly: a median of two images is a float, one
        image may be integers."""
        import numpy as np

        return np.result_type(*self.dtypes).name


@dataclass
class Outcome:
    """The results of one unit.

    Attributes:
        ok: number of ROIs with a result. no_data, failed: indices of the others. first_error: of
            the failures.
        failures: [index, error, stage, retryable] of each. weights: in use. rows: a record per
            ROI, None where it failed.
    """

    ok: int = 0
    no_data: array = field(default_factory=lambda: array("Q"))
    failed: array = field(default_factory=lambda: array("Q"))
    first_error: str = ""
    weights: dict | None = None
    failures: Spool = field(default_factory=Spool)
    rows: Rows = field(default_factory=lambda: Rows(OF_IMAGE))  # a row without them has those of its image


@dataclass
class Imagery:
    """The images of one source: a record per ROI, None where there is none, and their scenes."""

    rows: Rows = field(default_factory=Rows)
    scenes: Scenes = field(default_factory=Scenes)


class Survey:
    """The pass. ``arrays`` by (unit key, kind), ``outcomes`` by unit key, ``imagery`` by source
    id, ``counts`` of ROIs by status and with warnings."""

    def __init__(self, run: Run) -> None:
        n = self._n = len(run.plan.roi_ids)
        self.arrays = {
            (u.key, kind): Arrays(bytearray(n), array("Q", bytes(8 * n))) for u in run.plan.units for kind in KINDS
        }
        self.outcomes = {u.key: Outcome() for u in run.plan.units}
        self.imagery = {source: Imagery() for source in dict.fromkeys(u.source for u in run.plan.units)}
        self.counts = ResultCounts()
        # of all ROIs: a record also shares the pixels of its ROI alone
        first: dict[tuple, str] = {}
        saved = {u.key: first.setdefault((run.plan.unit_sources(u), u.sensor.bands), u.key) for u in run.plan.units}
        self._same_as = {key: other for key, other in saved.items() if other != key}
        readers = {s: [u.key for u in run.plan.units if u.source == s] for s in self.imagery}
        for row in chunk_files.read_records(run):
            self.counts.add(row["status"], _kinds_of_warnings(row))
            for source, keys in readers.items():
                self._separate_image(source, keys, row)
            for key, record in row["units"].items():
                self._add_arrays(key, row["index"], record)
                self._add_outcome(key, row["index"], record)

    def _separate_image(self, source: str, keys: list[str], row: dict) -> None:
        """Keep the image's metadata of the first unit with an image, and remove it from the
        metadata of units where it is equal."""
        imagery = self.imagery[source]
        shared: dict | None = None
        for key in keys:
            if (metadata := collect_metadata(row["units"][key])) is None:
                continue
            metadata = record_defaults.drop_nulls(metadata)
            image = {k: metadata.pop(k) for k in OF_IMAGE if k in metadata}
            image = record_defaults.index_scenes(image, imagery.scenes.index_of)
            shared = image if shared is None else shared
            row["units"][key]["metadata"] = metadata | {k: v for k, v in image.items() if shared.get(k) != v}
            row["units"][key]["nulls"] = [k for k in shared if k not in image]
        imagery.rows.add(shared)

    def _add_arrays(self, key: str, index: int, record: dict) -> None:
        for kind in KINDS:
            part = record.get(kind, {})
            if "shape" in part:
                arrays = self.arrays[key, kind]
                arrays.add(index, part, self._same_as.get(key) if kind == "input" else None)
                arrays.digests[index] = int(part["sha256"][:16], 16) or 1
        for name, part in record.get("model_inputs", {}).get("tensors", {}).items():
            empty = Arrays(bytearray(self._n), array("Q"))  # without digests
            self.arrays.setdefault((key, f"model_input:{name}"), empty).add(index, part)

    def _add_outcome(self, key: str, index: int, record: dict) -> None:
        outcome = self.outcomes[key]
        outcome.weights = outcome.weights or record.get("embedding", {}).get("meta", {}).get("weights")
        if record["status"] == "failed":
            failure = next(p for p in map(record.get, (*KINDS, "model_inputs")) if p and p["status"] == "failed")
            outcome.first_error = outcome.first_error or failure["error"]
            outcome.failed.append(index)
            outcome.failures.add([index, failure["error"], failure["stage"], failure["retryable"]])
        elif record["status"] == "no_data":
            outcome.no_data.append(index)
        else:
            outcome.ok += 1
        outcome.rows.add(record.get("metadata"), record.get("nulls", ()))

    def tensors(self, key: str) -> list[str]:
        """Kinds of the tensors of a unit's network that were saved."""
        return [kind for unit, kind in self.arrays if unit == key and kind not in KINDS]

    def close(self) -> None:
        """Delete the temporary files."""
        for outcome in self.outcomes.values():
            outcome.failures.close()
            outcome.rows.close()
        for imagery in self.imagery.values():
            imagery.rows.close()
            imagery.scenes.rows.close()


def _kinds_of_warnings(row: dict) -> set[str]:
    """Kinds of the warnings about the results of a ROI. Those of a unit without a result explain
    its status, and are left out."""
    kinds: set[str] = set()
    for record in row["units"].values():
        if record["status"] == "ok":
            parts = record.get("embedding", {}).get("meta", {}), record.get("input", {})
            kinds.update(kind for part in parts for kind in kinds_of(part.get("quality")))
    return kinds


#: Elsewhere in a model's entry, or under another name.
_NOT_REPEATED = ("weights", "same_as", "sha256", "dtype", "meta")


def collect_metadata(record: dict) -> dict | None:
    """Metadata and digests of a ROI and a unit for a manifest, without what is elsewhere in it;
    None where it failed."""
    embedding, chip = record.get("embedding", {}), record.get("input", {})
    has_result = any(part and part["status"] != "failed" for part in (embedding, chip))
    if not has_result or embedding.get("status") == "failed":
        return None
    chip = {} if chip.get("status") == "failed" else chip  # its error is elsewhere
    shape = {"shape": chip["shape"][-2:]} if "shape" in chip else {}
    metadata = {k: v for k, v in (chip | shape | embedding.get("meta", {})).items() if k not in _NOT_REPEATED}
    parts = (("embedding", embedding), ("input", chip))
    digests = {f"{kind}_sha256": part["sha256"] for kind, part in parts if "sha256" in part}
    return {**metadata, "status": record["status"], **digests}
