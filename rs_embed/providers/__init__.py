"""Providers of imagery, by the word before ``:`` in ``backend``. A new one is one file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from ..errors import ModelError
from ..request.fields import nearest
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
        job: this is a job of the run: ``known`` is what the run was planned with, and is not looked up again.
        settings: what the config says to providers, by the word of their backend.

    Raises:
        ModelError: an unknown backend, naming those there are.
    """
    word, _, argument = backend.partition(":")
    allowed = (
        "'auto', 'gee', 'gee:<project>', 'local:<folder or catalogue>', 'stac' (Earth Search), 'stac:planetary-computer', "
        "'stac:<url or file>', 'sample'"
    )
    word = "gee" if word == "auto" else word
    if word not in PROVIDERS:
        raise ModelError(f"backend: {backend!r} is not supported{nearest(word, PROVIDERS)}; allowed: {allowed}")
    module, name = PROVIDERS[word]
    said = (settings or {}).get(word)
    return getattr(importlib.import_module(f".{module}", __name__), name)(
        argument, base, known, job=job, **({"settings": said} if said else {})
    )
