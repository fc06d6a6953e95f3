"""Providers of imagery, by the word before ``:`` in ``backend``. A new provider is one file and
one line in ``PROVIDERS``.

- ``base``: the protocol of a provider, and what it gets and returns.
- ``composite``: several images combined into one, and windows divided into frames.
- ``retries``: when a failed request is repeated.
- ``sample``: the sample scene (``backend="sample"``).
- ``rasters``: raster files, and the user's own (``backend="local:..."``).
- ``gee``: Google Earth Engine (``backend="gee"``).
- ``stac``: STAC APIs and static catalogues (``backend="stac"``).
- ``limits``: limits that all jobs of a run share.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from ..errors import ModelError
from ..request.fields import suggest_nearest
from .base import Chip, Provider, Roi

__all__ = ["PROVIDERS", "Chip", "Provider", "Roi", "get_provider"]

#: backend word -> (module, class)
PROVIDERS = {
    "gee": ("gee.provider", "GeeProvider"),
    "local": ("rasters.local", "LocalProvider"),
    "sample": ("sample", "SampleProvider"),
    "stac": ("stac.provider", "StacProvider"),
}


def get_provider(
    backend: str, base: str, known: dict | None = None, *, job: bool = False, settings: Mapping | None = None
) -> Provider:
    """The provider of a ``backend`` string such as ``"sample"`` or ``"local:rasters/"``.

    Args:
        base: folder that a path in the string is relative to.
        known: what an earlier start of the run froze (``Provider.freeze``).
        job: the caller is a job of the run: ``known`` is what the run was planned with, and is not
            looked up again.
        settings: sections of the config for providers, by the word of their backend.

    Raises:
        ModelError: the backend is unknown; the message lists the allowed ones.
    """
    word, _, argument = backend.partition(":")
    allowed = (
        "'auto', 'gee', 'gee:<project>', 'local:<folder or catalogue>', 'stac' (Earth Search), 'stac:planetary-computer', "
        "'stac:<url or file>', 'sample'"
    )
    word = "gee" if word == "auto" else word
    if word not in PROVIDERS:
        raise ModelError(f"backend: {backend!r} is not supported{suggest_nearest(word, PROVIDERS)}; allowed: {allowed}")
    module, name = PROVIDERS[word]
    section = (settings or {}).get(word)
    options = {"settings": section} if section else {}
    return getattr(importlib.import_module(f".{module}", __name__), name)(argument, base, known, job=job, **options)
