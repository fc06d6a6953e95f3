"""The records of a chunk: everything that manifests contain about its ROIs, in a file of its own
beside the write receipt.

The receipt is read at every start and stays small. The records (grids, dates, provenance, digests
of every ROI and model) are read by the merge only, a line at a time. The receipt contains the
digest of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import StoreError
from ...formats import manifest
from ...planning.plan import Chunk
from ...runs.run import Run
from ...store import receipts
from ...store.store import replace_file, set_aside


def _path(chunk: Chunk) -> str:
    return f"items/{chunk.name}.jsonl"


def write_records(chunk: Chunk, rows: list[dict]) -> dict:
    """Write the records; returns the file's entry in the receipt."""
    lines = (json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)
    replace_file(_path(chunk), "".join(lines).encode())
    return manifest.file_record(_path(chunk))


def are_records_intact(run: Run, receipt: dict) -> bool:
    """Whether the file of records that a receipt lists exists and is unchanged."""
    return "records" in receipt and not manifest.is_damaged(receipt["records"], str(run.dir))


def read_records(run: Run) -> Iterator[dict]:
    """The records of all ROIs, in order.

    Raises:
        StoreError: a file is damaged, and was moved aside; the next start writes the chunk again.
    """
    for chunk in run.plan.chunks:
        listed = receipts.read(f"items/{chunk.name}.json", run.plan.items_key(chunk))["records"]
        sha = hashlib.sha256()
        try:
            with open(_path(chunk), "rb") as file:
                for line in file:
                    sha.update(line)
                    yield json.loads(line)
        except (FileNotFoundError, ValueError):
            sha = hashlib.sha256()
        if sha.hexdigest() != listed["sha256"]:
            if Path(_path(chunk)).exists():
                set_aside(Path(_path(chunk)))
            raise StoreError(f"the file of records {_path(chunk)} is damaged or missing; run again to create it again")
