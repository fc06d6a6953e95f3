"""One file of the model hub, from its cache or downloaded.

A failure is one sentence that tells how to continue without the hub.

huggingface_hub provides resumed downloads, a lock per file, a cache that several programs share,
and the variables ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN``. If the commit
is in the cache, the network is not used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError


def fetch_file(repository: str, revision: str, file: str, *, download: bool = True) -> tuple[Path, str]:
    """The path of a file in the cache, and its commit.

    Args:
        revision: a commit, a tag or a branch.
        download: download the file if it is not in the cache.

    Raises:
        ModelError: the file is not in the cache and cannot be downloaded. The message names file,
            repository, reason and what to do.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if download and not isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        message = f"rs-embed: weights: {file} of {repository} is not in the cache, downloading"
        print(message, file=sys.stderr, flush=True)
    try:
        path = Path(hf_hub_download(repository, file, revision=revision, local_files_only=not download))
    except Exception as error:  # the type depends on the versions of the library and of its HTTP client
        raise ModelError(_describe_error(repository, revision, file, error, download)) from error
    return path, path.parents[file.count("/")].name  # <cache>/<repository>/snapshots/<commit>/<file>


def _describe_error(repository: str, revision: str, file: str, error: BaseException, download: bool) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    subject = f"weights: the file {file} of the hub repository {repository} (revision {revision})"
    local = "model_config={'weights': '<path of that file>'}"
    causes = list(_list_causes(error))
    kinds = {type(e).__name__ for e in causes}
    status = next((s for s in map(_http_status, causes) if s), None)
    if status in (401, 403):
        return (
            f"{subject} is not accessible to you: the hub answered {status} (the repository asks for consent, is private or does not "
            "exist, or the token is not valid); allowed: an account that may read it, with its token in HF_TOKEN or by "
            f"`hf auth login`, or {local}"
        )
    if status == 404:
        absent = "revision" if "RevisionNotFoundError" in kinds else "repository, revision or file"
        absent = "file" if kinds & {"RemoteEntryNotFoundError", "EntryNotFoundError"} else absent
        return f"{subject} does not exist: the hub answered 404 (no such {absent}); allowed: {local}"
    reason = (
        _describe_failed_download(error, kinds, status) if download else "jobs do not download, the start of a run does"
    )
    folder = f"models--{repository.replace('/', '--')}"
    return (
        f"{subject} is not in the cache {HF_HUB_CACHE} and could not be downloaded: {reason}; allowed: {local}, network access, "
        f"or `hf download {repository} {file} --revision {revision}` where there is network and a copy of its cache folder "
        f"{folder} in {HF_HUB_CACHE}"
    )


def _describe_failed_download(error: BaseException, kinds: set[str], status: int | None) -> str:
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set"
    if status:
        return f"the hub answered {status}"
    cause = error.__cause__ or error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
    return re.sub(r"//[^/@\s]+@", "//", reason)  # the address of a mirror or proxy can contain a password


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _http_status(error: BaseException) -> int | None:
    """HTTP status of the response that caused an error."""
    return getattr(getattr(error, "response", None), "status_code", None)
