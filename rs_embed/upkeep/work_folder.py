"""The work folder that a path refers to, its run folders, and the stores that these use."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import RunLockedError, StoreError
from ..request.config import SUFFIX
from ..runs.run import Run
from ..runs.run_files import CONFIG, IMAGERY, ROIS, WEIGHTS, load_run
from ..store import locks
from ..store.store import Store

FOLDER_NAME = ".rs_embed"
#: Threads that read and hash: both release the interpreter, and more threads only make a disk
#: seek.
READ_THREADS = min(8, 2 * (os.cpu_count() or 1))
#: What a run folder may contain whose request was never frozen.
_BEFORE_FREEZING = {".lock", ".package", "logs", ".snakemake"}


@dataclass(frozen=True)
class RunFolder:
    """A folder in ``runs/``; a :class:`LoadedRun` where a request is frozen in it and can be read.

    Attributes:
        folder: its path.
        error: why its request cannot be read; None where it can be read or is not frozen yet.
        running: the process that works on it now (may be empty), or None.
    """

    folder: Path
    error: str | None
    running: dict | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def target(self) -> str:
        """Absolute path of the final file or folder; the run folder's own path where the request
        cannot be read."""
        return str(self.folder)


@dataclass(frozen=True)
class LoadedRun(RunFolder):
    """A run folder with its request.

    Attributes:
        run: the run that is frozen in the folder.
    """

    run: Run

    @cached_property
    def store(self) -> Path:
        """Folder of the store that the run uses, without symbolic links."""
        return Path(os.path.realpath(self.run.store.root))

    @property
    def target(self) -> str:
        return os.path.normpath(self.folder / self.run.plan.target)


@dataclass(frozen=True)
class SharedStore:
    """A store, the work folders that use it, and the runs of all of them.

    Attributes:
        store: the store.
        work_folders: work folders with runs that may use it, starting with the one that was
            opened.
        missing: registration files of work folders that do not exist any more, with the path of
            each.
        unreadable: registration files that cannot be read.
        runs: the runs of all work folders that use this store.
        broken: run folders of all work folders whose request cannot be read, so their references
            are unknown.
    """

    store: Store
    work_folders: tuple[Path, ...]
    missing: dict[Path, Path] = field(default_factory=dict)
    unreadable: tuple[Path, ...] = ()
    runs: tuple[LoadedRun, ...] = ()
    broken: tuple[RunFolder, ...] = ()


@dataclass(frozen=True)
class WorkFolder:
    """A work folder and its run folders, as they are now."""

    folder: Path
    run_folders: tuple[RunFolder, ...]

    @property
    def runs(self) -> tuple[LoadedRun, ...]:
        """The run folders whose request can be read."""
        return tuple(r for r in self.run_folders if isinstance(r, LoadedRun))

    @cached_property
    def stores(self) -> tuple[SharedStore, ...]:
        """The store in the work folder, and the stores that its runs use."""
        default = Path(os.path.realpath(self.folder / "store"))
        roots = dict.fromkeys([default, *(r.store for r in self.runs)])
        return tuple(self._find_users(Store(root)) for root in roots if root.is_dir())

    @contextlib.contextmanager
    def lock_stores(self, command: str, flag: str) -> Iterator[None]:
        """Keep every run out of the stores.

        Args:
            command, flag: what the user ran, for the message.

        Raises:
            RunLockedError: a run uses one of the stores.
        """
        with contextlib.ExitStack() as held:
            for shared in self.stores:
                lock = locks.acquire_exclusive_store_lock(shared.store.root)
                if lock is None:
                    raise RunLockedError(
                        f"{command}: the store {shared.store.root} is in use by a run; wait for it, or stop it, and give {flag} again"
                    )
                held.enter_context(lock)
            yield

    def _find_users(self, store: Store) -> SharedStore:
        registered = store.registered_work_folders()
        others = [w for w in registered.values() if w is not None and w != self.folder]
        existing = [w for w in others if w.is_dir()]
        found = [*self.run_folders, *(r for w in existing for r in list_run_folders(w))]
        return SharedStore(
            store,
            (self.folder, *existing),
            {file: w for file, w in registered.items() if w in others and w not in existing},
            tuple(file for file, w in registered.items() if w is None),
            tuple(r for r in found if isinstance(r, LoadedRun) and r.store == store.root),
            tuple(r for r in found if r.error),
        )

    @property
    def orphaned_generations(self) -> tuple[Path, ...]:
        """Generation files of runs whose folder does not exist any more."""
        known = {r.name for r in self.run_folders}
        return tuple(p for p in sorted((self.folder / "generations").glob("*.json")) if p.stem not in known)


def open_work_folder(given: str | Path) -> WorkFolder:
    """The work folder that a path refers to: the path itself, a folder in it, or the one beside it
    (of a target).

    Raises:
        StoreError: no work folder is found.
    """
    folder = find_work_folder(given)
    return WorkFolder(folder, list_run_folders(folder))


def find_work_folder(given: str | Path) -> Path:
    """Path of the work folder, without symbolic links; see :func:`open_work_folder`."""
    path = Path(os.path.realpath(os.path.expanduser(given)))
    if path.is_dir() and _is_work_folder(path):
        return path
    if (path / FOLDER_NAME).is_dir():
        return path / FOLDER_NAME
    beside = path.parent / FOLDER_NAME
    if beside.is_dir() and (path.exists() or any((beside / "runs").glob(f"{_run_name_prefix(path)}-*-*"))):
        return beside
    raise StoreError(
        f"folder: {str(given)!r} has no work folder in it or beside it (looked for {path / FOLDER_NAME}); "
        f"allowed: a folder {FOLDER_NAME}, one that contains it, or the target of an export"
    )


def _is_work_folder(path: Path) -> bool:
    expected = (path / "store" / name for name in ("chips", "embeddings", "works"))
    return path.name == FOLDER_NAME or any((path / "runs").glob(f"*/{CONFIG}")) or any(map(Path.is_dir, expected))


def _run_name_prefix(path: Path) -> str:
    """First part of the name of the run folder whose target is ``path``, with or without its
    suffix."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem if path.suffix in SUFFIX.values() else path.name)[:60]


def list_run_folders(work: Path) -> tuple[RunFolder, ...]:
    """The run folders of a work folder, by name."""
    return tuple(_read_run_folder(p) for p in sorted((work / "runs").glob("*/")))


def _read_run_folder(folder: Path) -> RunFolder:
    running = locks.read_lock_holder(folder)
    if {p.name for p in folder.iterdir()} <= _BEFORE_FREEZING:
        return RunFolder(folder, None, running)
    try:
        return LoadedRun(folder, None, running, load_run_strictly(folder))
    except Exception as error:  # a damaged file can cause any error
        text = f"{error}" if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return RunFolder(folder, " ".join(text.split()), running)


def load_run_strictly(folder: Path) -> Run:
    """The run that is frozen in a folder. Its references must be complete, so this refuses damage
    that a job would tolerate.

    Raises:
        StoreError: one of the small files of the run folder is damaged or missing.
    """
    text = (folder / ROIS).read_text(encoding="utf-8") if (folder / ROIS).exists() else "\n"
    if not text.endswith("\n") or not (folder / CONFIG).read_text(encoding="utf-8").endswith("\n"):
        raise StoreError(f"{ROIS} or {CONFIG} ends in the middle of a line")
    run = load_run(folder)
    if not (folder / WEIGHTS).exists() and any(u.identity.get("weights", {}).get("sha256") for u in run.plan.units):
        raise StoreError(f"{WEIGHTS} is missing")
    if not all(re.fullmatch(r"[0-9a-f]{32}", i or "") for i in run.plan.roi_ids):
        raise StoreError(f"{ROIS} has a row without an id")
    generation = run.work / "generations" / f"{folder.name}.json"
    if generation.exists() and not _is_mapping(generation):
        raise StoreError(f"{generation} is damaged")
    if (folder / IMAGERY).exists():
        if not _is_mapping(folder / IMAGERY):
            raise StoreError(f"{IMAGERY} is damaged")
    elif run.provider.freeze() is not None:
        raise StoreError(f"{IMAGERY} is missing")
    if any(len(run.plan.object_names(s.id)) != len(run.plan.roi_ids) for s in run.plan.sources):
        raise StoreError(f"{IMAGERY} does not fit {ROIS}")
    return run


def _is_mapping(path: Path) -> bool:
    """A file contains a JSON object."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
