"""Models, by id. A family is one module with ``ADAPTER``; a new one is one file and one line here. Importing this,
or a family's module, does not import torch."""

from __future__ import annotations

import functools
import importlib

from ..errors import ModelError
from ..planning.model_info import ModelInfo
from ..request.fields import nearest
from .base import Adapter

__all__ = ["MODELS", "Adapter", "describe", "get_adapter"]

#: id or alias -> module of the family
MODELS = {
    "mosaiks": "mosaiks",
    "rcf": "mosaiks",
    "remoteclip": "remoteclip",
    "remoteclip_s2rgb": "remoteclip",
    "terrafm": "terrafm",
    "terrafm_b": "terrafm",
    "prithvi": "prithvi",
    "prithvi_eo_v2_s2_6b": "prithvi",
    "thor": "thor",
    "thor_1_0_base": "thor",
}


@functools.cache
def get_adapter(name: str) -> Adapter:
    """The adapter of a model id or alias, any case.

    Raises:
        ModelError: unknown id, naming those there are.
    """
    word = name.strip().lower()
    if word not in MODELS:
        raise ModelError(f"models: {name!r} is unknown{nearest(word, MODELS)}; allowed: {', '.join(MODELS)}")
    return importlib.import_module(f".{MODELS[word]}", __name__).ADAPTER


def describe(name: str) -> ModelInfo:
    """The description of a model id or alias (see :func:`get_adapter`)."""
    return get_adapter(name).info
