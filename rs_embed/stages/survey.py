"""One pass over the receipts of a run: which arrays there are, of which shapes, what failed, and every ROI's record.

What is kept in memory is a byte per ROI and array, and the failures; the records go through temporary files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from ..run import Run
from . import records

KINDS = ("input", "embedding")


@dataclass
class Arrays:
    """The inputs, or the embeddings, of one unit over the whole run.

    Attributes:
        have: a byte per ROI, 1 where there is an array.
        shapes, dtypes: those that occur.
        same_as: keys of the units whose equal arrays stand for these; None among them where they are their own.
    """

    have: bytearray
    shapes: set[tuple] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    same_as: set[str | None] = field(default_factory=set)

    @property
    def indices(self) -> list[int]:
        """ROI indices that have an array."""
        return [i for i, has in enumerate(self.have) if has]

    @property
    def own(self) -> bool:
        """There are arrays, and no other unit's stand for them."""
        return any(self.have) and None in self.same_as

    @property
    def stackable(self) -> bool:
        """Every ROI has an array, and all are of one shape."""
        return all(self.have) and len(self.shapes) == 1

    @property
    def dtype(self) -> str:
        """The dtype that holds all of them exactly: a median of two images is a float, one image may be integers."""
        import numpy as np

        return np.result_type(*self.dtypes).name


@dataclass
class Outcome:
    """What became of one unit: failures by ROI index, ROIs without imagery, weights in use, records."""

    ok: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    no_data: list[int] = field(default_factory=list)
    weights: dict | None = None
    spool: IO[str] = field(default_factory=lambda: tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115

    def records(self) -> Iterator[dict | None]:
        """One record per ROI, in order; None where there is nothing to say but the error."""
        self.spool.seek(0)
        for line in self.spool:
            yield json.loads(line)


class Survey:
    """The pass. ``arrays`` by (unit key, kind), ``outcomes`` by unit key, ``statuses`` counts ROIs."""

    def __init__(self, run: Run) -> None:
        n = len(run.plan.roi_ids)
        self.arrays = {(u.key, kind): Arrays(bytearray(n)) for u in run.plan.units for kind in KINDS}
        self.outcomes = {u.key: Outcome() for u in run.plan.units}
        self.statuses: dict[str, int] = {}
        for row in records.read(run):
            self.statuses[row["status"]] = self.statuses.get(row["status"], 0) + 1
            for key, record in row["units"].items():
                self._see(key, row["index"], record)

    def _see(self, key: str, index: int, record: dict) -> None:
        for kind in KINDS:
            part = record.get(kind, {})
            if "shape" in part:
                arrays = self.arrays[key, kind]
                arrays.have[index] = 1
                arrays.shapes.add(tuple(part["shape"]))
                arrays.dtypes.add(part["dtype"])
                arrays.same_as.add(part.get("same_as"))
        outcome = self.outcomes[key]
        outcome.weights = outcome.weights or record.get("embedding", {}).get("meta", {}).get("weights")
        if record["status"] == "failed":
            outcome.errors[index] = next(p["error"] for p in map(record.get, KINDS) if p and p["status"] == "failed")
        elif record["status"] == "no_data":
            outcome.no_data.append(index)
        else:
            outcome.ok += 1
        outcome.spool.write(json.dumps(_small(record)) + "\n")

    def close(self) -> None:
        """Give the temporary files back."""
        for outcome in self.outcomes.values():
            outcome.spool.close()


#: Said once for the model, elsewhere in the entry, or under another name.
_NOT_REPEATED = ("weights", "status", "same_as", "sha256", "dtype")


def _small(record: dict) -> dict | None:
    """The record of a ROI as the manifest of a combined export has it: metadata and digests, without what repeats."""
    made, taken = record.get("embedding", {}), record.get("input", {})
    if not any(part and part["status"] != "failed" for part in (made, taken)) or made.get("status") == "failed":
        return None
    said = {k: v for k, v in made.get("meta", taken).items() if k not in _NOT_REPEATED}
    digests = {
        f"{kind}_sha256": part["sha256"] for kind, part in (("embedding", made), ("input", taken)) if "sha256" in part
    }
    return {"status": record["status"], **said, **digests}
