"""The work folder a person means, the runs in it, and the stores they use."""

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
from ..runs.run import CONFIG, IMAGERY, ROIS, WEIGHTS, Run, load_run
from ..store import locks
from ..store.store import Store

NAME = ".rs_embed"
#: Threads that read and hash: both release the interpreter, and more than this only makes a disk seek.
THREADS = min(8, 2 * (os.cpu_count() or 1))
#: What the folder of a run that never came to be frozen may hold.
_BEFORE_FREEZING = {".lock", ".package", "logs", ".snakemake"}


@dataclass(frozen=True)
class RunFolder:
    """A folder in ``runs/``.

    Attributes:
        folder: its path.
        run: the run frozen in it; None where its request cannot be read, or where there is none yet.
        error: why the request cannot be read, or None.
        running: who works on it now (may be empty), or None.
    """

    folder: Path
    run: Run | None
    error: str | None
    running: dict | None

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def store(self) -> Path | None:
        """Folder of the store that the run uses, without symbolic links."""
        return Path(os.path.realpath(self.run.store.root)) if self.run else None

    @property
    def target(self) -> str:
        """Absolute path of the final file or folder; the run folder's own path where the request cannot be read."""
        return os.path.normpath(self.folder / self.run.plan.target) if self.run else str(self.folder)


@dataclass(frozen=True)
class Shared:
    """A store, the work folders that use it, and the runs of all of them.

    Attributes:
        store: the store.
        works: work folders with runs that may use it, the one that was asked for first.
        gone: registrations of work folders that are not there any more.
        unreadable: registrations that cannot be read.
        runs: the runs of all work folders that use this store.
        broken: runs of all work folders whose request cannot be read, so that nobody knows what they refer to.
    """

    store: Store
    works: tuple[Path, ...]
    gone: dict[Path, Path] = field(default_factory=dict)
    unreadable: tuple[Path, ...] = ()
    runs: tuple[RunFolder, ...] = ()
    broken: tuple[RunFolder, ...] = ()


@dataclass(frozen=True)
class Work:
    """A work folder as it is now."""

    folder: Path
    runs: tuple[RunFolder, ...]

    @cached_property
    def stores(self) -> tuple[Shared, ...]:
        """The stores of the work folder: its own, and those that its runs name."""
        own = Path(os.path.realpath(self.folder / "store"))
        roots = dict.fromkeys([own, *(r.store for r in self.runs if r.store)])
        return tuple(self._shared(Store(root)) for root in roots if root.is_dir())

    @contextlib.contextmanager
    def alone(self, command: str, flag: str) -> Iterator[None]:
        """No run uses a store meanwhile.

        Raises:
            RunLockedError: one does; says what to give again then.
        """
        with contextlib.ExitStack() as held:
            for shared in self.stores:
                lock = locks.exclude(shared.store.root)
                if lock is None:
                    raise RunLockedError(
                        f"{command}: the store {shared.store.root} is in use by a run; wait for it, or stop it, and give {flag} again"
                    )
                held.enter_context(lock)
            yield

    def _shared(self, store: Store) -> Shared:
        registered = store.works()
        others = [w for w in registered.values() if w not in (None, self.folder)]
        runs = [*self.runs, *(r for w in others if w.is_dir() for r in run_folders(w))]
        return Shared(
            store,
            (self.folder, *(w for w in others if w.is_dir())),
            {file: w for file, w in registered.items() if w in others and not w.is_dir()},
            tuple(file for file, w in registered.items() if w is None),
            tuple(r for r in runs if r.store == store.root),
            tuple(r for r in runs if r.error),
        )

    @property
    def orphaned_generations(self) -> tuple[Path, ...]:
        """Generation files of runs whose folder is gone."""
        known = {r.name for r in self.runs}
        return tuple(p for p in sorted((self.folder / "generations").glob("*.json")) if p.stem not in known)


def open_work(given: str | Path) -> Work:
    """The work folder that a path means: itself, one in it, or the one beside it (of a target).

    Raises:
        StoreError: there is none.
    """
    folder = find_work(given)
    return Work(folder, run_folders(folder))


def find_work(given: str | Path) -> Path:
    """Path of the work folder, without symbolic links; see :func:`open_work`."""
    path = Path(os.path.realpath(os.path.expanduser(given)))
    if path.is_dir() and _is_work(path):
        return path
    if (path / NAME).is_dir():
        return path / NAME
    beside = path.parent / NAME
    if beside.is_dir() and (path.exists() or any((beside / "runs").glob(f"{_stem(path)}-*-*"))):
        return beside
    raise StoreError(
        f"folder: {str(given)!r} has no work folder in it or beside it (looked for {path / NAME}); "
        f"allowed: a folder {NAME}, one that holds it, or the target of an export"
    )


def _is_work(path: Path) -> bool:
    kept = (path / "store" / name for name in ("chips", "embeddings", "works"))
    return path.name == NAME or any((path / "runs").glob(f"*/{CONFIG}")) or any(map(Path.is_dir, kept))


def _stem(path: Path) -> str:
    """How the folder of a run begins whose target is ``path``, with or without its suffix."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem if path.suffix in SUFFIX.values() else path.name)[:60]


def run_folders(work: Path) -> tuple[RunFolder, ...]:
    """The runs of a work folder, by name."""
    return tuple(_run_folder(p) for p in sorted((work / "runs").glob("*/")))


def _run_folder(folder: Path) -> RunFolder:
    running = locks.holder(folder)
    if {p.name for p in folder.iterdir()} <= _BEFORE_FREEZING:
        return RunFolder(folder, None, None, running)
    try:
        return RunFolder(folder, load_strictly(folder), None, running)
    except Exception as error:  # whatever a damaged file leads to
        text = f"{error}" if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return RunFolder(folder, None, " ".join(text.split()), running)


def load_strictly(folder: Path) -> Run:
    """The run frozen in a folder, and an error where one of its small files is damaged and a job would go on with less:
    what a run refers to must not be guessed."""
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
    if any(len(run.plan.objects(s.id)) != len(run.plan.roi_ids) for s in run.plan.sources):
        raise StoreError(f"{IMAGERY} does not fit {ROIS}")
    return run


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
