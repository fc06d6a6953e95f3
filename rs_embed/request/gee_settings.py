"""Settings of Earth Engine: where it is, who asks, how much at a time. Nothing secret is in them."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ModelError
from .fields import check, option

if TYPE_CHECKING:
    from .request import Request

#: Endpoints of Earth Engine: for many small requests (the default here), and for interactive use. They serve the same pixels.
#: Source: the client's ``HIGH_VOLUME_API_BASE_URL`` and ``DEFAULT_CLOUD_API_BASE_URL``.
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
GEE_URLS = (HIGH_VOLUME, "https://earthengine.googleapis.com")
#: The resource ``gee`` of Snakemake counts in percent of the concurrency that is allowed.
WHOLE_QUOTA = 100


@dataclass(frozen=True)
class GeeSettings:
    """How Earth Engine is asked.

    Attributes:
        project: Cloud project that requests are billed to; None: of the environment or the credentials.
        url: endpoint; None: the one for many small requests.
        service_account: path of a service account's key file; None: the user's own credentials.
        concurrency, requests_per_second: what the whole run may use of the project's quota. The defaults are those of a
            standard project (developers.google.com/earth-engine/guides/usage).

    Raises:
        ModelError: a value that is not allowed; the text never repeats what could be a secret.
    """

    project: str | None = option(
        None, "Cloud project; null: EE_PROJECT, GOOGLE_CLOUD_PROJECT, or that of the credentials"
    )
    url: str | None = option(None, "endpoint; null: RS_EMBED_GEE_URL, or Earth Engine's own for many requests")
    service_account: str | None = option(
        None, "path of a service account's key file; null: EE_SERVICE_ACCOUNT_FILE, or your own credentials"
    )
    concurrency: int = option(40, "requests in flight at a time in the whole run", minimum=1)
    requests_per_second: float = option(100.0, "requests that the whole run begins in a second", above=0)

    def __post_init__(self) -> None:
        if isinstance(self.service_account, str) and any(sign in self.service_account for sign in "{\n"):
            raise ModelError(
                "gee.service_account: the content of a key is not valid here; allowed: the path of its file"
            )
        check(self, "gee", ModelError)
        for key in ("project", "service_account"):
            value = getattr(self, key)
            if value is not None and (not value.strip() or "\0" in value):
                raise ModelError(f"gee.{key}: {value!r} is not valid; allowed: a text or null")
        if self.url is not None:
            object.__setattr__(self, "url", _checked_url(self.url))

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        return self.url or HIGH_VOLUME

    @property
    def loopback(self) -> bool:
        """The endpoint is on this machine: a test's, which is asked without credentials."""
        return is_loopback(self.endpoint)


def _checked_url(url: str) -> str:
    """An endpoint without a trailing slash: https, or on this machine, because access tokens are sent to it."""
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


def gee_share(request: Request) -> int:
    """Percent of Earth Engine's concurrency that a fetch job of a request reserves in Snakemake; 0 for other backends.

    Two jobs more are let in than the concurrency feeds: one that starts up and one that ends use little of it, and the run's
    slots (``quota.py``) keep the count.
    """
    if request.backend != "gee" or request.gee is None:
        return 0
    workers = request.config.num_workers
    return max(1, math.floor(WHOLE_QUOTA * workers / (request.gee.concurrency + 2 * workers)))


def settle(request: Request, base: str, environment: Mapping[str, str] = os.environ) -> Request:
    """A request with everything filled in that its jobs, in other processes and on other machines, have to find.

    Only for the backend ``gee`` (and ``auto``, which means it); ``gee:<project>`` comes before ``gee.project``, that before the environment.

    Args:
        base: folder that a path in the request is relative to.
    """
    word, _, argument = request.backend.partition(":")
    if word not in ("auto", "gee"):
        return request
    given = request.gee or GeeSettings()
    project = argument or given.project or environment.get("EE_PROJECT") or environment.get("GOOGLE_CLOUD_PROJECT")
    account = given.service_account
    if account is not None:
        account = os.path.abspath(os.path.join(base, os.path.expanduser(account)))
    elif environment.get("EE_SERVICE_ACCOUNT_FILE"):
        account = os.path.abspath(os.path.expanduser(environment["EE_SERVICE_ACCOUNT_FILE"]))
    url = given.url or environment.get("RS_EMBED_GEE_URL") or None
    settings = replace(given, project=project or None, url=url, service_account=account)
    return replace(request, backend="gee", gee=settings)
