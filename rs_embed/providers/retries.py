"""When a failed request to an imagery service is repeated: full jitter, doubling, a cap, and the
service's ``Retry-After``. The STAC client repeats searches itself (``stac/search.py``)."""

from __future__ import annotations

import sys

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ..errors import ProviderError

#: Longest random pause between two attempts, seconds.
MAX_PAUSE_S = 60.0
#: Longest pause that a service may request (``Retry-After``), seconds; a longer one is not waited
#: for.
MAX_RETRY_AFTER_S = 600.0


def retrying(max_retries: int, backoff_s: float) -> Retrying:
    """Calls a function again while it raises a retryable :class:`ProviderError`, at most
    ``max_retries`` times.

    Args:
        backoff_s: upper end of the first random pause, seconds; doubles each time, up to
            ``MAX_PAUSE_S``. The pause is added to the one that the service requests, so that not
            all callers return at once.
    """
    jitter = wait_random_exponential(multiplier=backoff_s, max=MAX_PAUSE_S)

    def pause(state: RetryCallState) -> float:
        return jitter(state) + (getattr(_error(state), "retry_after", None) or 0.0)

    return Retrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=pause,
        retry=retry_if_exception(_can_retry),
        before_sleep=_log_retry,
        reraise=True,
    )


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _log_retry(state: RetryCallState) -> None:
    """Write a line to the job's log."""
    print(f"{_error(state)}; retrying in {state.upcoming_sleep:.1f} s", file=sys.stderr, flush=True)


def _can_retry(error: BaseException) -> bool:
    return isinstance(error, ProviderError) and error.retryable and (error.retry_after or 0.0) <= MAX_RETRY_AFTER_S
