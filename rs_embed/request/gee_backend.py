"""What a request needs for the backend ``gee``: its settings with the environment filled in, and
its share of the quota."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

from .gee_settings import GeeSettings
from .request import Request

#: The resource ``gee`` of Snakemake counts in percent of the allowed concurrency.
WHOLE_QUOTA = 100


def gee_share(request: Request) -> int:
    """Percent of Earth Engine's concurrency that a fetch job of a request reserves in Snakemake; 0
    for other backends.

    Two more jobs are admitted than the concurrency allows: a job that starts and a job that ends
    use little of it, and the slots of the run (``providers/limits``) enforce the limit.
    """
    if request.backend != "gee" or request.gee is None:
        return 0
    workers = request.config.num_workers
    return max(1, math.floor(WHOLE_QUOTA * workers / (request.gee.concurrency + 2 * workers)))


def resolve_gee_settings(request: Request, base: str, environment: Mapping[str, str] = os.environ) -> Request:
    """The request with all Earth Engine settings filled in, so that jobs in other processes and on
    other machines use them.

    Only for the backend ``gee`` (and ``auto``, which means ``gee``); other requests are returned
    unchanged. The project of ``gee:<project>`` has precedence over ``gee.project``, which has
    precedence over the environment.

    Args:
        base: folder that relative paths in the request refer to.
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
