"""Settings of Earth Engine: endpoint, credentials and request limits. They contain no secrets."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import ModelError
from .fields import check_fields, option

#: Endpoints of Earth Engine: for many small requests (the default), and for interactive use. They
#: serve the same pixels. Source: the client's ``HIGH_VOLUME_API_BASE_URL`` and
#: ``DEFAULT_CLOUD_API_BASE_URL``.
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
GEE_URLS = (HIGH_VOLUME, "https://earthengine.googleapis.com")


@dataclass(frozen=True)
class GeeSettings:
    """How requests are sent to Earth Engine.

    Attributes:
        project: Cloud project that requests are billed to; None: the one of the environment or the
            credentials.
        url: endpoint; None: the one for many small requests.
        service_account: path of a service account's key file; None: the user's credentials.
        concurrency, requests_per_second: the share of the project's quota that the whole run may
            use. The defaults are the limits of a standard project
            (developers.google.com/earth-engine/guides/usage).

    Raises:
        ModelError: a value is not allowed; the message never repeats what could be a secret.
    """

    project: str | None = option(
        None, "Cloud project; null: EE_PROJECT, GOOGLE_CLOUD_PROJECT, or the project of the credentials"
    )
    url: str | None = option(
        None, "endpoint; null: RS_EMBED_GEE_URL, or the endpoint of Earth Engine for many requests"
    )
    service_account: str | None = option(
        None, "path of a service account's key file; null: EE_SERVICE_ACCOUNT_FILE, or the user's credentials"
    )
    concurrency: int = option(40, "concurrent requests of the whole run", minimum=1)
    requests_per_second: float = option(100.0, "requests that the whole run starts per second", above=0)

    def __post_init__(self) -> None:
        if isinstance(self.service_account, str) and any(sign in self.service_account for sign in "{\n"):
            raise ModelError(
                "gee.service_account: the content of a key is not valid here; allowed: the path of its file"
            )
        check_fields(self, "gee", ModelError)
        for key in ("project", "service_account"):
            value = getattr(self, key)
            if value is not None and (not value.strip() or "\0" in value):
                raise ModelError(f"gee.{key}: {value!r} is not valid; allowed: a text or null")
        if self.url is not None:
            object.__setattr__(self, "url", _checked_url(self.url))

    @property
    def endpoint(self) -> str:
        """The URL that requests are sent to."""
        return self.url or HIGH_VOLUME

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine: a test server, which needs no credentials."""
        return is_loopback(self.endpoint)


def _checked_url(url: str) -> str:
    """An endpoint without a trailing slash; https unless it is on this machine, because access
    tokens are sent to it."""
    parts = urlsplit(url.strip().rstrip("/"))
    if parts.username or parts.password or parts.query:
        raise ModelError("gee.url: a URL with a user, a password or a query is not valid; allowed: https://host[:port]")
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url))):
        raise ModelError(f"gee.url: {url!r} is not valid; allowed: https://host[:port], or http:// of this machine")
    return parts.geturl()


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
