"""The errors of the package. All have one base class, so ``except RSEmbedError`` catches every
error that it raises on purpose.

RSEmbedError ├── SpecError       an invalid ROI, window, sensor, output or name ├── ModelError
an unsupported model, option, configuration or combination; a model that failed ├── ProviderError
imagery could not be fetched (``retryable``: whether a repetition can succeed) ├── StoreError
a file of the work folder is damaged or cannot be read ├── RunLockedError  another process is
working on the same target └── ExportError     the workflow stopped; the message names ROI, model
and stage of the first failure
"""

from __future__ import annotations

#: Most characters of a message: one that repeats a long value must stay readable.
LONGEST = 4000


class RSEmbedError(Exception):
    """Base class of every error that this package raises on purpose."""

    def __init__(self, message: str = "", *more: object) -> None:
        if isinstance(message, str) and len(message) > LONGEST:  # the end lists what is allowed
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 3 :]}"
        super().__init__(message, *more)


class SpecError(RSEmbedError, ValueError):
    """A ROI, window, sensor, output or name is invalid; nothing was run."""


class ModelError(RSEmbedError):
    """A model, its options, or the configuration of an export is invalid, or a model failed on an
    image."""


class ProviderError(RSEmbedError):
    """Imagery could not be fetched.

    Attributes:
        retryable: True when the same request can succeed later (time-out, quota, dropped
            connection), False when it is deterministic (unknown band, no permission).
        retry_after: seconds that the service asks to wait first, or None.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class StoreError(RSEmbedError):
    """A file of the work folder is damaged, or its content does not belong to its path."""


def can_pass(error: BaseException) -> bool:
    """Whether the same work can succeed later: false for an invalid request and for a final error
    of a provider."""
    if isinstance(error, ProviderError):
        return error.retryable
    return not isinstance(error, (SpecError, ModelError))


class RunLockedError(RSEmbedError):
    """Another live process is working on the same target."""


class ExportError(RSEmbedError):
    """The workflow stopped before the export was complete; finished work is kept, and the next
    call reuses it.

    Attributes:
        log: path of Snakemake's log of the run, or None.
    """

    def __init__(self, message: str, *, log: str | None = None) -> None:
        super().__init__(message)
        self.log = log
