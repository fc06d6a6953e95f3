"""One pass over the records of a run: which arrays there are, of which shapes, what failed, and every ROI's record.

What is kept in memory is some bytes per ROI and array; the records go through temporary files. What an image says (grid,
dates, scenes) is kept once for its source, and again for a unit only where it says something else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...formats import record_defaults
from ...runs.run import Run
from ..shared import chunk_records
from .spool import Rows, Scenes, Spool

KINDS = ("input", "embedding")
#: What a record says of the image, whichever model reads it.
OF_IMAGE = ("crs", "affine", "shape", "roi", "dates", "fetched", "provenance")


@dataclass
class Arrays:
    """The inputs, or the embeddings, of one unit over the whole run.

    Attributes:
        have: a byte per ROI, 1 where there is an array.
        digests: the first 8 bytes of each array's SHA-256 as a number, 0 where there is none or another unit's stands for it.
        shapes, dtypes: those that occur.
        same_as: keys of the units whose equal arrays stand for these; None among them where they are their own.
    """

    have: bytearray
    digests: array
    shapes: set[tuple] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    same_as: set[str | None] = field(default_factory=set)

    @property
    def indices(self) -> Iterator[int]:
        """ROI indices that have an array."""
        return (i for i, has in enumerate(self.have) if has)

    @property
    def missing(self) -> Iterator[int]:
        """ROI indices that have none."""
        return (i for i, has in enumerate(self.have) if not has)

    @property
    def own(self) -> bool:
        """There are arrays, and no other unit's stand for them."""
        return any(self.have) and None in self.same_as

    @property
    def stackable(self) -> bool:
        """There are arrays, and all are of one shape: one array with a row for every ROI holds them."""
        return any(self.have) and len(self.shapes) == 1

    @property
    def dtype(self) -> str:
        """The dtype that holds all of them exactly: a median of two images is a float, one image may be integers."""
        import numpy as np

        return np.result_type(*self.dtypes).name


@dataclass
class Outcome:
    """What became of one unit.

    Attributes:
        ok: number of ROIs with a result. no_data, failed: indices of the others. first_error: of the failures.
        failures: [index, error, stage, retryable] of each. weights: in use. rows: a record per ROI, None where it failed.
    """

    ok: int = 0
    no_data: array = field(default_factory=lambda: array("Q"))
    failed: array = field(default_factory=lambda: array("Q"))
    first_error: str = ""
    weights: dict | None = None
    failures: Spool = field(default_factory=Spool)
    rows: Rows = field(default_factory=lambda: Rows(OF_IMAGE))  # a row without them says what its image says


@dataclass
class Imagery:
    """The images of one source: a record per ROI, None where there is none, and the scenes they are made of."""

    rows: Rows = field(default_factory=Rows)
    scenes: Scenes = field(default_factory=Scenes)


class Survey:
    """The pass. ``arrays`` by (unit key, kind), ``outcomes`` by unit key, ``imagery`` by source id, ``statuses`` counts ROIs."""

    def __init__(self, run: Run) -> None:
        n = self._n = len(run.plan.roi_ids)
        self.arrays = {
            (u.key, kind): Arrays(bytearray(n), array("Q", bytes(8 * n))) for u in run.plan.units for kind in KINDS
        }
        self.outcomes = {u.key: Outcome() for u in run.plan.units}
        self.imagery = {s.id: Imagery() for s in run.plan.sources}
        self.statuses: dict[str, int] = {}
        readers = {s.id: [u.key for u in run.plan.units if u.source == s.id] for s in run.plan.sources}
        for row in chunk_records.read(run):
            self.statuses[row["status"]] = self.statuses.get(row["status"], 0) + 1
            for source, keys in readers.items():
                self._image(source, keys, row)
            for key, record in row["units"].items():
                self._see(key, row["index"], record)

    def _image(self, source: str, keys: list[str], row: dict) -> None:
        """Keep what the first unit with an image says of it, and take it from the records of all that say the same."""
        imagery = self.imagery[source]
        shared: dict | None = None
        for key in keys:
            said = said_of(row["units"][key])
            if said is None:
                continue
            said = record_defaults.clean(said)
            image = record_defaults.refer({k: said.pop(k) for k in OF_IMAGE if k in said}, imagery.scenes.at)
            shared = image if shared is None else shared
            row["units"][key]["said"] = said | {k: v for k, v in image.items() if shared.get(k) != v}
            row["units"][key]["lacks"] = [k for k in shared if k not in image]
        imagery.rows.add(shared)

    def _see(self, key: str, index: int, record: dict) -> None:
        for kind in KINDS:
            part = record.get(kind, {})
            if "shape" in part:
                arrays = self.arrays[key, kind]
                arrays.have[index] = 1
                arrays.shapes.add(tuple(part["shape"]))
                arrays.dtypes.add(part["dtype"])
                arrays.same_as.add(part.get("same_as"))
                if part.get("same_as") is None:
                    arrays.digests[index] = int(part["sha256"][:16], 16) or 1
        for name, part in record.get("model_inputs", {}).get("tensors", {}).items():
            arrays = self.arrays.setdefault((key, f"model_input:{name}"), Arrays(bytearray(self._n), array("Q")))
            arrays.have[index] = 1
            arrays.shapes.add(tuple(part["shape"]))
            arrays.dtypes.add(part["dtype"])
            arrays.same_as.add(None)
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
        outcome.rows.add(record.get("said"), record.get("lacks", ()))

    def tensors(self, key: str) -> list[str]:
        """Kinds of the tensors of a unit's network that were saved."""
        return [kind for unit, kind in self.arrays if unit == key and kind not in KINDS]

    def close(self) -> None:
        """Give the temporary files back."""
        for outcome in self.outcomes.values():
            outcome.failures.close()
            outcome.rows.close()
        for imagery in self.imagery.values():
            imagery.rows.close()
            imagery.scenes.rows.close()


#: Said once for the model, elsewhere in the entry, or under another name.
_NOT_REPEATED = ("weights", "same_as", "sha256", "dtype", "meta")


def said_of(record: dict) -> dict | None:
    """What a manifest says of a ROI and a unit: metadata and digests, without what is said elsewhere; None where it failed."""
    made, taken = record.get("embedding", {}), record.get("input", {})
    if not any(part and part["status"] != "failed" for part in (made, taken)) or made.get("status") == "failed":
        return None
    taken = {} if taken.get("status") == "failed" else taken  # why is said elsewhere
    shape = {"shape": taken["shape"][-2:]} if "shape" in taken else {}
    said = {k: v for k, v in (taken | shape | made.get("meta", {})).items() if k not in _NOT_REPEATED}
    digests = {
        f"{kind}_sha256": part["sha256"] for kind, part in (("embedding", made), ("input", taken)) if "sha256" in part
    }
    return {**said, "status": record["status"], **digests}
