"""Models, by id. Importing this package, or the module of a family, does not import torch.

- :mod:`.base`: the interface of a model family (``Adapter``) and its input (``Image``)
- :mod:`.mosaiks`, :mod:`.prithvi`, :mod:`.remoteclip`, :mod:`.terrafm`, :mod:`.thor`: one family
  each
- :mod:`.prithvi_variants`: the published models of Prithvi
- :mod:`.thor_inputs`: what enters THOR
- :mod:`.shared`: parts of several families (transformer, weights, units of measure and sizes of
  inputs)

A new model is one file with ``ADAPTER`` and one line in :data:`MODELS`.
"""

from __future__ import annotations

import functools
import importlib

from ..errors import ModelError
from ..planning.model_info import ModelInfo
from ..request.fields import suggest_nearest
from .base import Adapter

__all__ = ["MODELS", "Adapter", "get_adapter", "get_model_info"]

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
        ModelError: the id is unknown; the message lists the known ones.
    """
    id_ = name.strip().lower()
    if id_ not in MODELS:
        raise ModelError(f"models: {name!r} is unknown{suggest_nearest(id_, MODELS)}; allowed: {', '.join(MODELS)}")
    adapter = importlib.import_module(f".{MODELS[id_]}", __name__).ADAPTER
    if id_ not in (adapter.info.id, *adapter.info.aliases):
        raise ModelError(
            f"models: {name!r} is {adapter.info.id!r} in models/{MODELS[id_]}.py; allowed: the same id in MODELS"
        )
    return adapter


def get_model_info(name: str) -> ModelInfo:
    """The description of a model id or alias (see :func:`get_adapter`)."""
    return get_adapter(name).info
