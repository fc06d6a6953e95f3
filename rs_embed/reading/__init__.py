"""``load_export``: read an export of this package or of ``rs-embed`` 0.3.1.

Arrays and records are read on access.

- ``combined``, ``per_item``: open the two layouts.
- ``manifest_lines``: manifests whose long lists stay in the file.
- ``manifest_records``: a record per ROI, restored from what the manifest stores once.
- ``columns``: the arrays of one model and kind, by ROI.
- ``model_result``, ``result``: what ``load_export`` returns.
- ``tables``: the export as a pandas table and as an xarray dataset.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..request.config import SUFFIX
from .result import ExportResult, ModelResult

__all__ = ["ExportResult", "ModelResult", "load_export"]


def load_export(path: str | Path, *, n_items: int | None = None) -> ExportResult:
    """Open an export; arrays and records are read on access.

    Args:
        path: a combined file (``.npz``, ``.nc``, their ``.json``, or the path without a suffix),
            or the folder of a per_item export.
        n_items: number of ROIs of the request. Only needed for a folder written by ``rs-embed``:
            its files do not tell whether the last ROIs failed.

    Raises:
        FileNotFoundError: the export does not exist.
        ValueError: the path is not an export that can be read; the message is one sentence.
    """
    from . import combined, per_item

    given = os.fspath(path)
    path = Path(given)
    arrays = [path.with_name(path.name + s) for s in SUFFIX.values()] if path.name else []
    if path.is_dir() and (given.endswith(os.sep) or not any(map(Path.exists, arrays))):
        return per_item.open_folder(path, n_items)
    suffix = path.suffix.lower()
    if suffix in (*SUFFIX.values(), ".json"):
        return combined.open_file(path.with_suffix(""), None if suffix == ".json" else path, n_items)
    if path.exists():
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; allowed: .npz, .nc, .json or a folder")
    return combined.open_file(path, None, n_items)  # the path as ExportTarget.combined accepts it
