"""When a request to an imagery service is made again: full jitter, doubling, a cap, and what the service asks for."""

from __future__ import annotations

import sys

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ..errors import ProviderError

#: Longest pause of our own between two attempts, seconds.
MAX_PAUSE_S = 60.0
#: Longest pause that a service may ask for (``Retry-After``), seconds; one that asks for more is not waited for.
MAX_TOLD_S = 600.0


def attempts(max_retries: int, backoff_s: float) -> Retrying:
    """Calls a function again while it raises a :class:`ProviderError` that can pass, ``max_retries`` times at most.

    Args:
        backoff_s: upper end of the first random pause, seconds; doubles each time, up to ``MAX_PAUSE_S``. Where the service
            said how long to wait, the pause is added to that, so that not all callers come back at once.
    """
    own = wait_random_exponential(multiplier=backoff_s, max=MAX_PAUSE_S)

    def pause(state: RetryCallState) -> float:
        return own(state) + (getattr(state.outcome.exception(), "retry_after", None) or 0.0)

    return Retrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=pause,
        retry=retry_if_exception(_again),
        before_sleep=_say,
        reraise=True,
    )


def _say(state: RetryCallState) -> None:
    """A line in the job's log."""
    print(f"{state.outcome.exception()}; asking again in {state.upcoming_sleep:.1f} s", file=sys.stderr, flush=True)


def _again(error: BaseException) -> bool:
    return isinstance(error, ProviderError) and error.retryable and (error.retry_after or 0.0) <= MAX_TOLD_S
