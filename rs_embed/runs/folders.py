"""The paths of a run: its target, the work folder beside it, the store, and the run's own
folder."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from ..errors import ModelError
from ..request.config import SUFFIX
from ..request.fields import LONGEST_NAME, LONGEST_PATH, is_path_too_long
from ..request.identity import digest
from ..request.request import Request

#: Environment variable with the store of runs without ``store_dir``; jobs read it from the frozen
#: request.
STORE = "RS_EMBED_STORE"


def target_path(request: Request, base: str) -> str:
    """Absolute path of the target: combined with its suffix, per_item the folder.

    Raises:
        ModelError: the path exists and is not a target, or cannot be written.
    """
    path = resolve_path(request.target.path, base)
    # a combined export's manifest has the longest suffix
    _refuse_too_long(path + (".json" if request.target.layout == "combined" else ""), "target.path")
    if request.target.layout == "combined":
        given = os.path.abspath(os.path.join(base, os.path.expanduser(request.target.path)))
        path = os.path.join(resolve_path(os.path.dirname(given), base), os.path.basename(given))
        suffix = SUFFIX[request.config.format]
        path = path if path.endswith(suffix) else path + suffix
        if os.path.isdir(path) or os.path.basename(path) == suffix:
            raise ModelError(f"target.path: {request.target.path!r} is a folder; allowed: a file")
        check_writable(os.path.dirname(path), f"target.path: {request.target.path!r}")
    else:
        check_writable(path, f"target.path: {request.target.path!r}")
    return path


def _refuse_too_long(path: str, where: str) -> None:
    if is_path_too_long(path):
        raise ModelError(
            f"{where}: a path of {len(os.fsencode(path))} bytes is too long; "
            f"allowed: {LONGEST_PATH} bytes, {LONGEST_NAME} in a name"
        )


def resolve_path(path: str, base: str) -> str:
    """Absolute path without symbolic links: paths between the folders of a run are relative, and
    ``..`` of a linked folder is another folder."""
    return os.path.realpath(os.path.join(base, os.path.expanduser(path)))


def check_writable(folder: str, where: str) -> None:
    """Refuse a folder that cannot be created or written to. Creates nothing."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ModelError(f"{where} cannot be written: {folder} is not a folder; allowed: a path in a writable folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ModelError(
            f"{where} cannot be written: {folder}: {error.strerror}; allowed: a path in a writable folder"
        ) from None


def locate_folders(request: Request, target: str, base: str) -> tuple[Path, Path, Path]:
    """(work, store, run folder) of a request. The work folder is beside the target, so that both
    layouts share it."""
    config = request.config
    work = Path(resolve_path(config.work_dir, base)) if config.work_dir else Path(target).parent / ".rs_embed"
    shared = config.store_dir or os.environ.get(STORE)
    store = Path(resolve_path(shared, base)) if shared else work / "store"
    for folder, key in ((work, "work_dir"), (store, "store_dir")):
        where = STORE if key == "store_dir" and shared and not config.store_dir else f"export.{key}"
        _refuse_too_long(str(folder), where)
        check_writable(str(folder), f"{where}: {str(folder)!r}")
    stem = Path(target).stem if request.target.layout == "combined" else Path(target).name
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:60]
    return work, store, work / "runs" / f"{stem}-{request.target.layout}-{digest(os.path.relpath(target, work), 8)}"
