"""Locates the weights of a model: a local file, a file of the hub or random numbers.

Torch is not imported.

No file is used before its digest is compared: with the published digest, with the one recorded at
first use, or with the one at the start of the run. Hashing gigabytes in every job would be slow,
so a digest is cached with the file's path, size and modification time, and computed again if one
of them differs.
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
from ..request.fields import suggest_nearest
from ..request.identity import digest
from ..store.atomic_files import replace_file, temporary_path
from .hub import fetch_file

_KEY = "model_config.weights"
_ALLOWED = (
    f"allowed: the path of a weights file, {RANDOM!r} (tests and benchmarks only), or null for the published file"
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a job loads.

    Attributes:
        path: checked local file, or None for random weights.
        seed: of random weights.
        metadata: what the manifest records of them. Random: ``pretrained`` (false),
            ``random_seed``, ``warning``. A file: ``pretrained`` (true), ``file``, ``sha256``,
            ``sha256_from`` (``"published"``, ``"recorded at first use"`` or ``"local file"``), and
            for a file of the hub ``repository``, ``revision`` and ``commit``.
    """

    path: Path | None
    seed: int = 0
    metadata: dict = field(default_factory=dict)


class Digests:
    """SHA-256 of local weights files, by the path in the request."""

    def __init__(self, known: dict | None = None, base: str = ".", *, job: bool = False) -> None:
        """Args:
        known: result of :meth:`used_entries` at an earlier start; None or another type: nothing is
            known.
        base: folder that paths are relative to.
        job: refuse files whose content differs from ``known``.
        """
        self._known = known if isinstance(known, dict) else {}
        self._base, self._job = base, job
        self._used: dict[str, dict] = {}

    def path(self, given: str) -> Path:
        """Absolute path of a file of the request."""
        return Path(os.path.abspath(os.path.join(self._base, os.path.expanduser(given))))

    def sha256(self, given: str) -> str:
        """SHA-256 of a file for planning, hex.

        In a job, the digest from the start of the run, without access to the file: a run can be
        planned and inspected after its weights were deleted. At a start, computed if size or
        modification time differ from the cached ones.

        Raises:
            ModelError: the path is missing, not a file or unreadable.
        """
        if self._job and given in self._known:
            return self._known[given]["sha256"]
        return self.checked_sha256(given)

    def checked_sha256(self, given: str) -> str:
        """SHA-256 of a file that is about to be read, hex.

        Raises:
            ModelError: as for :meth:`sha256`; or, in a job, the file differs from the one at the
                start of the run.
        """
        if given not in self._used:
            self._used[given] = self._compute(given)
        return self._used[given]["sha256"]

    def compute_all(self, files: Iterable[str]) -> None:
        """Compute the digests of several files concurrently.

        An invalid file is reported when its digest is requested.
        """
        files = [given for given in dict.fromkeys(files) if given not in self._used]
        if len(files) < 2:
            return

        def compute(given: str) -> dict | None:
            try:
                return self._compute(given)
            except ModelError:
                return None

        with ThreadPoolExecutor(min(4, len(files)), thread_name_prefix="sha256") as pool:
            entries = zip(files, pool.map(compute, files))
            self._used |= {given: entry for given, entry in entries if entry is not None}

    def used_entries(self) -> dict:
        """The requested digests as JSON values, by path: ``size`` (bytes), ``mtime_ns``,
        ``sha256``."""
        return {given: dict(entry) for given, entry in sorted(self._used.items())}

    def _compute(self, given: str) -> dict:
        path, known = self.path(given), self._known.get(given)
        try:
            entry = _digest_entry(path, known)
        except OSError as error:
            fault = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            near = suggest_nearest(path.name.lower(), [RANDOM])
            raise ModelError(f"{_KEY}: {str(path)!r} {fault}{near}; {_ALLOWED}") from None
        if self._job and known is not None and entry["sha256"] != known["sha256"]:
            raise ModelError(
                f"{_KEY}: {str(path)!r} has changed since the run was started (its sha256 is {entry['sha256']}, it was "
                f"{known['sha256']}); start the run again to use the file as it is now"
            )
        return entry


def locate_weights(
    published: Weights | None, given: str | None, seed: int, *, digests: Digests, records: Path, download: bool = True
) -> Checkpoint | None:
    """The weights of a model request, checked and on this machine; None for a model without.

    Several processes may call it at the same time. If the file is in the cache of the hub, the
    network is not used.

    Args:
        published: the model's published file.
        given, seed: the options ``weights`` and ``seed``.
        digests: of local files.
        download: download the published file if it is not in the hub's cache.
        records: folder of the records of first use. It belongs to the stored embeddings, because
            their identities contain only the revision of the published file.

    Raises:
        ModelError: the file does not exist, or its digest is not the expected one. StoreError: a
            damaged record.
    """
    if given == RANDOM:
        warning = "random weights, for tests and benchmarks: no trained model"
        return Checkpoint(None, seed, {"pretrained": False, "random_seed": seed, "warning": warning})
    if given is not None:
        path, sha256 = digests.path(given), digests.checked_sha256(given)
        metadata = {"pretrained": True, "file": path.name, "sha256": sha256, "sha256_from": "local file"}
        return Checkpoint(path, 0, metadata)
    return None if published is None else _locate_hub_file(published, Path(records), download)


def _locate_hub_file(published: Weights, records: Path, download: bool) -> Checkpoint:
    record_path = _record_path(published, records)
    record = _read_record(record_path)
    revision = record["commit"] if record else published.revision
    path, commit = fetch_file(published.repository, revision, published.file, download=download)
    sha256 = _cached_file_sha256(path, records)
    if record is None and published.sha256 in (None, sha256):
        record = _record_first_use(record_path, published, commit, sha256)
        if record["commit"] != commit:  # another process was first, and the branch moved between the two
            return _locate_hub_file(published, records, download)
    expected = published.sha256 or (record["sha256"] if record else None)
    if sha256 != expected:
        source = "published" if published.sha256 else f"recorded at first use in {record_path}"
        raise ModelError(
            f"weights: the file {published.file} of the hub repository {published.repository} (commit {commit}) has the sha256 "
            f"{sha256}, and the one {source} is {expected}: it is damaged or was replaced; remove {os.path.realpath(path)} to "
            "download it again, or use a file you trust with model_config={'weights': '<path>'}"
        )
    metadata = {
        "pretrained": True,
        "repository": published.repository,
        "revision": published.revision,
        "commit": commit,
        "file": published.file,
        "sha256": sha256,
        "sha256_from": "published" if published.sha256 else "recorded at first use",
    }
    return Checkpoint(path, 0, metadata)


def _record_path(published: Weights, records: Path) -> Path:
    """File of the record of first use of a published file."""
    name = [published.repository, published.revision, published.file]
    stem = f"{published.repository.replace('/', '--')}--{os.path.basename(published.file)}"
    return records / f"{stem[:120]}-{digest(name, 12)}.json"


def _read_record(path: Path) -> dict | None:
    """The record of first use of a published file; None before its first use.

    Raises:
        StoreError: it is damaged. This is an error, because otherwise a changed file would be
            accepted.
    """
    try:
        record: dict = json.loads(path.read_bytes())
        if record.pop("check") != digest(record):
            raise ValueError
        return record
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{path}, the sha256 of a weights file at first use, is damaged; restore it, or remove it to trust the file as it "
            "is now"
        ) from None


def _record_first_use(path: Path, published: Weights, commit: str, sha256: str) -> dict:
    """Write the record of first use.

    Returns the valid record, which another process may have written.
    """
    fields = {"repository": published.repository, "revision": published.revision, "file": published.file}
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields |= {"commit": commit, "sha256": sha256, "recorded": now}
    _write_record(path, fields)
    return _read_record(path) or fields


def _write_record(path: Path, fields: dict) -> None:
    """Write a record, unless another process was faster: the first record stays."""
    data = json.dumps(fields | {"check": digest(fields)}, indent=1).encode()
    temporary = temporary_path(path)
    replace_file(temporary, data, durable=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # the file system has no hard links
        replace_file(path, data, durable=True)
    finally:
        temporary.unlink(missing_ok=True)


def _cached_file_sha256(path: Path, records: Path) -> str:
    """SHA-256 of a file in the hub's cache, itself cached below ``records`` for the next job."""
    real = os.path.realpath(path)
    note = records / "checked" / f"{digest(real, 16)}.json"
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError):
        known = None
    try:
        entry = _digest_entry(Path(real), known)
    except OSError as error:
        raise ModelError(
            f"weights: {real} cannot be read ({error.strerror}); allowed: a readable cache of the hub (HF_HOME)"
        ) from None
    if entry != known:
        replace_file(note, json.dumps(entry).encode())
    return entry["sha256"]


def _digest_entry(path: Path, known: object) -> dict:
    """Size, modification time and SHA-256 of a file.

    The digest is that of ``known`` if size and time are equal.

    Raises:
        OSError: it cannot be read, is not a file, or changes meanwhile.
    """
    before = _file_stamp(path)
    if isinstance(known, dict) and before.items() <= known.items() and isinstance(known.get("sha256"), str):
        return {**before, "sha256": known["sha256"]}
    sha256 = _compute_sha256(path, before["size"])
    if _file_stamp(path) != before:
        raise OSError(0, "it is being written")
    return {**before, "sha256": sha256}


def _file_stamp(path: Path) -> dict:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a file")
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _compute_sha256(path: Path, size: int) -> str:
    from tqdm import tqdm

    sha = hashlib.sha256()
    shown: dict = {"unit": "B", "unit_scale": True, "delay": 2, "disable": None, "leave": False}
    with open(path, "rb", buffering=0) as file, tqdm(total=size, desc=f"sha256 of {path.name}", **shown) as bar:
        while block := file.read(1 << 22):
            sha.update(block)
            bar.update(len(block))
    return sha.hexdigest()
