"""Tokens for public files with signed URLs, such as the Planetary Computer's: kept in memory,
renewed before they expire.

Source: planetarycomputer.microsoft.com/docs/concepts/sas and
github.com/microsoft/planetary-computer-sdk-for-python (sas.py): a GET of
``.../sas/v1/token/<collection>`` answers ``{"token": query, "msft:expiry": RFC 3339}``; a
subscription key, where one is needed, is sent in the header ``Ocp-Apim-Subscription-Key``.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from urllib.parse import urlsplit

from ...errors import ProviderError
from .search import RETRYABLE_STATUSES, TIMEOUT_S

#: A token is renewed this long before it expires, seconds: longer than one read can take with its
#: retries.
RENEW_EARLY_S = 300.0
#: Environment variable with the subscription key, as in Microsoft's package; sent in a header,
#: never written to a file.
KEY_VARIABLE = "PC_SDK_SUBSCRIPTION_KEY"


class Signer:
    """Tokens of one service, by collection. Safe to share between threads."""

    def __init__(self, name: str, token_url: str, storage: str) -> None:
        self.name, self.token_url, self.storage = name, token_url, storage
        self._tokens: dict[str, tuple[str, dt.datetime]] = {}
        self._lock = threading.Lock()

    def get_token(self, href: str, collection: str, *, refused: str | None = None) -> str | None:
        """The query that gives access to a file, or None where no query is needed.

        Args:
            refused: a token that the service has refused.

        Raises:
            ProviderError: the service gives no token; the error tells whether a retry can help.
        """
        if not (urlsplit(href).hostname or "").endswith(self.storage):
            return None
        with self._lock:  # one request for all waiting threads
            token, end = self._tokens.get(collection, (None, None))
            seconds_left = (end - dt.datetime.now(dt.UTC)).total_seconds() if end else 0.0
            if token is None or seconds_left < RENEW_EARLY_S or token == refused:
                token, end = self._request_token(collection)
                self._tokens[collection] = token, end
            return token

    def _request_token(self, collection: str) -> tuple[str, dt.datetime]:
        import requests

        key = os.environ.get(KEY_VARIABLE)
        try:
            answer = requests.get(
                self.token_url + collection,
                headers={"Ocp-Apim-Subscription-Key": key} if key else None,
                timeout=TIMEOUT_S,
            )
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ProviderError(f"{self.name} gives no token for {collection}: {reason}", retryable=True) from None
        if answer.status_code != 200:
            retryable = answer.status_code in RETRYABLE_STATUSES
            hint = "; allowed: a collection that needs no account, or a subscription key in the environment variable "
            raise ProviderError(
                f"{self.name} gives no token for {collection}: HTTP {answer.status_code}"
                f"{'' if retryable else hint + KEY_VARIABLE}",
                retryable=retryable,
            )
        try:
            fields = answer.json()
            end = dt.datetime.fromisoformat(fields["msft:expiry"])
            return str(fields["token"]), end if end.tzinfo else end.replace(tzinfo=dt.UTC)
        except (ValueError, KeyError, TypeError):
            raise ProviderError(
                f"{self.name} gives no token for {collection}: the answer is not valid", retryable=True
            ) from None
