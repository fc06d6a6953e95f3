"""One file of the model hub, from its cache or downloaded; a failure is one sentence that says how to go on without it.

huggingface_hub does the work: resumed downloads, a lock per file, a cache that several programs share, and the variables
``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN``. Where the wanted commit is in the cache, nothing is asked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError


def fetch(repository: str, revision: str, file: str, *, download: bool = True) -> tuple[Path, str]:
    """The file in the cache, and the commit it is of.

    Args:
        revision: a commit, a tag or a branch.
        download: where it is not in the cache.

    Raises:
        ModelError: it is neither in the cache nor to be had, naming file, repository, reason and what to do.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if download and not isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        print(
            f"rs-embed: weights: {file} of {repository} is not in the cache, downloading", file=sys.stderr, flush=True
        )
    try:
        path = Path(hf_hub_download(repository, file, revision=revision, local_files_only=not download))
    except Exception as error:  # its own errors, OSErrors, and those of an HTTP client that changed with its versions
        raise ModelError(_refusal(repository, revision, file, error, download)) from error
    return path, path.parents[file.count("/")].name  # <cache>/<repository>/snapshots/<commit>/<file>


def _refusal(repository: str, revision: str, file: str, error: BaseException, download: bool) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    what = f"weights: the file {file} of the hub repository {repository} (revision {revision})"
    own = "model_config={'weights': '<path of that file>'}"
    causes = list(_causes(error))
    kinds = {type(e).__name__ for e in causes}
    status = next((s for s in map(_status, causes) if s), None)
    if status in (401, 403):
        return (
            f"{what} is not open to you: the hub answered {status} (the repository asks for consent, is private or does not "
            "exist, or the token is not valid); allowed: an account that may read it, with its token in HF_TOKEN or by "
            f"`hf auth login`, or {own}"
        )
    if status == 404:
        absent = "revision" if "RevisionNotFoundError" in kinds else "repository, revision or file"
        absent = "file" if kinds & {"RemoteEntryNotFoundError", "EntryNotFoundError"} else absent
        return f"{what} is not there: the hub answered 404 (no such {absent}); allowed: {own}"
    if not download:
        reason = "jobs do not download, the start of a run does"
    elif "OfflineModeIsEnabled" in kinds:
        reason = "HF_HUB_OFFLINE is set"
    elif status:
        reason = f"the hub answered {status}"
    else:
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
        reason = re.sub(r"//[^/@\s]+@", "//", reason)  # an address of a mirror or proxy can hold a password
    folder = f"models--{repository.replace('/', '--')}"
    return (
        f"{what} is not in the cache {HF_HUB_CACHE} and could not be downloaded: {reason}; allowed: {own}, network access, "
        f"or `hf download {repository} {file} --revision {revision}` where there is network and a copy of its cache folder "
        f"{folder} in {HF_HUB_CACHE}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """HTTP status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)
