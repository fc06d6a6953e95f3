"""Where a model's weights are: a local file, a file of the hub at a pinned revision, or random numbers. Knows no torch.

No file is used whose digest was not compared: with the published one, with the one recorded when the file was used first, or
with the one that the run was started with. Hashing gigabytes in every job would be slow, so a digest is remembered with the
file's path, size and modification time, and computed again where one of them differs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ModelError, StoreError
from ..planning.model_info import RANDOM, Weights
from ..request.fields import nearest
from ..request.identity import digest
from ..store.store import replace_file, temporary_name
from .hub import fetch

_KEY = "model_config.weights"
_ALLOWED = (
    f"allowed: the path of a weights file, {RANDOM!r} (tests and benchmarks only), or null for the published file"
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights as a job loads them.

    Attributes:
        path: checked local file, or None for random weights.
        seed: of random weights.
        said: what the manifest says of them. Random: ``pretrained`` (false), ``random_seed``, ``warning``. A file:
            ``pretrained`` (true), ``file``, ``sha256``, ``sha256_from`` (``"published"``, ``"recorded at first use"`` or
            ``"local file"``), and of the hub's ``repository``, ``revision`` and ``commit``.
    """

    path: Path | None
    seed: int = 0
    said: dict = field(default_factory=dict)


class Digests:
    """SHA-256 of local weights files, by the path in the request."""

    def __init__(self, known: dict | None = None, base: str = ".", *, job: bool = False) -> None:
        """Args:
        known: what :meth:`frozen` gave at an earlier start; None or anything else: nothing is known.
        base: folder that paths are relative to.
        job: refuse files whose content is not what ``known`` says.
        """
        self._known = known if isinstance(known, dict) else {}
        self._base, self._job = base, job
        self._used: dict[str, dict] = {}

    def path(self, given: str) -> Path:
        """Absolute path of a file of the request."""
        return Path(os.path.abspath(os.path.join(self._base, os.path.expanduser(given))))

    def of(self, given: str) -> str:
        """SHA-256 of a file, hex. In a job that of the start of the run, without a look at the file: a run can be planned, and
        looked after, when it is gone. At a start computed where size or modification time are not those remembered.

        Raises:
            ModelError: it is missing, no file or unreadable.
        """
        if self._job and given in self._known:
            return self._known[given]["sha256"]
        return self.check(given)

    def check(self, given: str) -> str:
        """:meth:`of` a file that is about to be read.

        Raises:
            ModelError: as there, or, in a job, the file is another than at the start of the run.
        """
        if given not in self._used:
            self._used[given] = self._look(given)
        return self._used[given]["sha256"]

    def look_at(self, files: Iterable[str]) -> None:
        """Compute the digests of several files side by side. What is wrong with one is said when it is asked for."""
        files = [given for given in dict.fromkeys(files) if given not in self._used]
        if len(files) < 2:
            return

        def look(given: str) -> dict | None:
            try:
                return self._look(given)
            except ModelError:
                return None

        with ThreadPoolExecutor(min(4, len(files)), thread_name_prefix="sha256") as pool:
            found = zip(files, pool.map(look, files))
            self._used |= {given: entry for given, entry in found if entry is not None}

    def frozen(self) -> dict:
        """What was used, as JSON values: path to ``size`` (bytes), ``mtime_ns`` and ``sha256``."""
        return {given: dict(entry) for given, entry in sorted(self._used.items())}

    def _look(self, given: str) -> dict:
        path, known = self.path(given), self._known.get(given)
        try:
            entry = _entry(path, known)
        except OSError as error:
            wrong = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            near = nearest(path.name.lower(), [RANDOM])
            raise ModelError(f"{_KEY}: {str(path)!r} {wrong}{near}; {_ALLOWED}") from None
        if self._job and known is not None and entry["sha256"] != known["sha256"]:
            raise ModelError(
                f"{_KEY}: {str(path)!r} has changed since the run was started (its sha256 is {entry['sha256']}, it was "
                f"{known['sha256']}); start the run again to use the file as it is now"
            )
        return entry


def locate(
    published: Weights | None, given: str | None, seed: int, *, digests: Digests, records: Path, download: bool = True
) -> Checkpoint | None:
    """The weights of a model request, on this machine and checked; None for a model without weights.

    May be called by several processes at once. With the file in the cache of the hub, nothing is asked of the network.

    Args:
        published, given, seed: the model's published file; the options ``weights`` and ``seed``.
        digests: of local files.
        download: the published file, where it is not in the hub's cache.
        records: folder of what was recorded at first use; belongs with the stored embeddings, whose identities name the
            published file by its revision.

    Raises:
        ModelError: there is no such file, or its digest is not the expected one. StoreError: a damaged record.
    """
    if given == RANDOM:
        said = {"pretrained": False, "random_seed": seed}
        return Checkpoint(None, seed, said | {"warning": "random weights, for tests and benchmarks: no trained model"})
    if given is not None:
        path = digests.path(given)
        said = {"pretrained": True, "file": path.name, "sha256": digests.check(given), "sha256_from": "local file"}
        return Checkpoint(path, 0, said)
    return None if published is None else _from_hub(published, Path(records), download)


def _from_hub(published: Weights, records: Path, download: bool) -> Checkpoint:
    name = [published.repository, published.revision, published.file]
    stem = f"{published.repository.replace('/', '--')}--{os.path.basename(published.file)}"
    record_file = records / f"{stem[:120]}-{digest(name, 12)}.json"
    record = _recorded(record_file)
    revision = record["commit"] if record else published.revision
    path, commit = fetch(published.repository, revision, published.file, download=download)
    sha256 = _of_cached(path, records)
    if record is None and published.sha256 in (None, sha256):
        about = {"repository": published.repository, "revision": published.revision, "file": published.file}
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _record(record_file, about | {"commit": commit, "sha256": sha256, "recorded": now})
        record = _recorded(record_file)
        if record["commit"] != commit:  # another process was first, and the branch moved between the two
            return _from_hub(published, records, download)
    expected = published.sha256 or record["sha256"]
    if sha256 != expected:
        source = "published" if published.sha256 else f"recorded at first use in {record_file}"
        raise ModelError(
            f"weights: the file {published.file} of the hub repository {published.repository} (commit {commit}) has the sha256 "
            f"{sha256}, and the one {source} is {expected}: it is damaged or was replaced; remove {os.path.realpath(path)} to "
            "download it again, or use a file you trust with model_config={'weights': '<path>'}"
        )
    said = {
        "pretrained": True,
        "repository": published.repository,
        "revision": published.revision,
        "commit": commit,
        "file": published.file,
        "sha256": sha256,
        "sha256_from": "published" if published.sha256 else "recorded at first use",
    }
    return Checkpoint(path, 0, said)


def _recorded(path: Path) -> dict | None:
    """What was recorded of a published file at first use; None before that.

    Raises:
        StoreError: it is damaged. It is not passed over: the file would be trusted anew.
    """
    try:
        record = json.loads(path.read_bytes())
        if record.pop("check") != digest(record):
            raise ValueError
        return record
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{path} is damaged, which holds the sha256 that a weights file had at first use; bring it back, or remove it to "
            "trust the file as it is now"
        ) from None


def _record(path: Path, about: dict) -> None:
    """Record a file, unless another process was faster: the first record stays."""
    data = json.dumps(about | {"check": digest(about)}, indent=1).encode()
    temporary = temporary_name(path)
    replace_file(temporary, data, durable=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here
        replace_file(path, data, durable=True)
    finally:
        temporary.unlink(missing_ok=True)


def _of_cached(path: Path, records: Path) -> str:
    """SHA-256 of a file of the hub's cache, remembered below ``records`` for the next job."""
    real = os.path.realpath(path)
    note = records / "checked" / f"{digest(real, 16)}.json"
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError):
        known = None
    try:
        entry = _entry(Path(real), known)
    except OSError as error:
        raise ModelError(
            f"weights: {real} cannot be read ({error.strerror}); allowed: a readable cache of the hub (HF_HOME)"
        ) from None
    if entry != known:
        replace_file(note, json.dumps(entry).encode())
    return entry["sha256"]


def _entry(path: Path, known: object) -> dict:
    """Size, modification time and SHA-256 of a file; ``known`` where it has that size and time.

    Raises:
        OSError: it cannot be read, is no file, or changes meanwhile.
    """
    before = _stamp(path)
    if isinstance(known, dict) and before.items() <= known.items() and isinstance(known.get("sha256"), str):
        return {**before, "sha256": known["sha256"]}
    sha256 = _sha256(path, before["size"])
    if _stamp(path) != before:
        raise OSError(0, "it is being written")
    return {**before, "sha256": sha256}


def _stamp(path: Path) -> dict:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no file")
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _sha256(path: Path, size: int) -> str:
    from tqdm import tqdm

    sha = hashlib.sha256()
    shown = {"unit": "B", "unit_scale": True, "delay": 2, "disable": None, "leave": False}
    with open(path, "rb", buffering=0) as file, tqdm(total=size, desc=f"sha256 of {path.name}", **shown) as bar:
        while block := file.read(1 << 22):
            sha.update(block)
            bar.update(len(block))
    return sha.hexdigest()
