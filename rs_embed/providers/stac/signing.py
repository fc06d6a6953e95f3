"""Tokens for files that are public but signed, as the Planetary Computer's: kept in memory, renewed before they expire.

Source: planetarycomputer.microsoft.com/docs/concepts/sas and github.com/microsoft/planetary-computer-sdk-for-python (sas.py): a GET of
``.../sas/v1/token/<collection>`` answers ``{"token": query, "msft:expiry": RFC 3339}``; a subscription key, where one is needed,
goes into the header ``Ocp-Apim-Subscription-Key``.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from urllib.parse import urlsplit

from ...errors import ProviderError
from .search import PASSING, TIMEOUT

#: A token is renewed this long before it expires, seconds: longer than one read can take with its repetitions.
EARLY = 300.0
#: Where people have put their key for Microsoft's own package; sent in a header, never written down.
KEY = "PC_SDK_SUBSCRIPTION_KEY"


class Signer:
    """Tokens of one service, by collection. Safe to share between threads."""

    def __init__(self, name: str, token_url: str, storage: str) -> None:
        self.name, self.token_url, self.storage = name, token_url, storage
        self._tokens: dict[str, tuple[str, dt.datetime]] = {}
        self._lock = threading.Lock()

    def token(self, href: str, collection: str, *, instead_of: str | None = None) -> str | None:
        """The query that opens a file, or None where it needs none.

        Args:
            instead_of: a token that was refused.

        Raises:
            ProviderError: there is none to be had, with whether that can pass.
        """
        if not (urlsplit(href).hostname or "").endswith(self.storage):
            return None
        with self._lock:  # one request for all threads that wait
            token, end = self._tokens.get(collection, (None, None))
            left = (end - dt.datetime.now(dt.UTC)).total_seconds() if end else 0.0
            if token is None or left < EARLY or token == instead_of:
                token, end = self._asked(collection)
                self._tokens[collection] = token, end
            return token

    def _asked(self, collection: str) -> tuple[str, dt.datetime]:
        import requests

        key = os.environ.get(KEY)
        try:
            answer = requests.get(
                self.token_url + collection,
                headers={"Ocp-Apim-Subscription-Key": key} if key else None,
                timeout=TIMEOUT,
            )
        except requests.RequestException as error:
            what = type(error).__name__
            raise ProviderError(f"{self.name} gives no token for {collection}: {what}", retryable=True) from None
        if answer.status_code != 200:
            passing = answer.status_code in PASSING
            hint = (
                ""
                if passing
                else f"; allowed: a collection that needs no account, or a subscription key in the environment variable {KEY}"
            )
            raise ProviderError(
                f"{self.name} gives no token for {collection}: HTTP {answer.status_code}{hint}", retryable=passing
            )
        try:
            said = answer.json()
            end = dt.datetime.fromisoformat(said["msft:expiry"])
            return str(said["token"]), end if end.tzinfo else end.replace(tzinfo=dt.UTC)
        except (ValueError, KeyError, TypeError):
            raise ProviderError(
                f"{self.name} gives no token for {collection}: its answer is none", retryable=True
            ) from None
