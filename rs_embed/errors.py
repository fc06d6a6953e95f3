"""The errors of the package: one root, so that ``except RSEmbedError`` catches every refusal and failure of ours.

RSEmbedError
├── SpecError       a ROI, window, sensor, output or name that cannot be used
├── ModelError      a model, option, configuration or combination that is not supported; a model that failed
├── ProviderError   imagery that could not be had (``retryable`` says whether asking again can help)
├── StoreError      a file of the work folder that is damaged or cannot be read
├── RunLockedError  another process is working on the same target
└── ExportError     the workflow stopped; the message names ROI, model and stage of the first failure
"""

from __future__ import annotations

#: Characters of a message, at most: one that repeats what was given must stay readable whatever that was.
LONGEST = 4000


class RSEmbedError(Exception):
    """Root of every error that this package raises on purpose."""

    def __init__(self, message: str = "", *more: object) -> None:
        if isinstance(message, str) and len(message) > LONGEST:  # the end says what is allowed
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 3 :]}"
        super().__init__(message, *more)


class SpecError(RSEmbedError, ValueError):
    """A ROI, window, sensor, output or name is invalid; nothing was run."""


class ModelError(RSEmbedError):
    """A model, its options, or the configuration of an export is invalid, or a model failed on an image."""


class ProviderError(RSEmbedError):
    """Imagery could not be had.

    Attributes:
        retryable: True when the same request can succeed later (time-out, quota, dropped connection),
            False when it is deterministic (unknown band, no permission).
        retry_after: seconds that the service asks to wait first, or None.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class StoreError(RSEmbedError):
    """A file of the work folder is damaged, or is not what its path says."""


def can_pass(error: BaseException) -> bool:
    """Whether the same work can succeed later: not for what a request asks wrongly, nor for a provider's final no."""
    if isinstance(error, ProviderError):
        return error.retryable
    return not isinstance(error, (SpecError, ModelError))


class RunLockedError(RSEmbedError):
    """Another live process is working on the same target."""


class ExportError(RSEmbedError):
    """The workflow stopped before the export was complete; what was finished is kept and is reused by the next call.

    Attributes:
        log: path of Snakemake's log of the run, or None.
    """

    def __init__(self, message: str, *, log: str | None = None) -> None:
        super().__init__(message)
        self.log = log
