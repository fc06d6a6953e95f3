"""Bytes out: array files and manifests.

A format is a module here and a line of ``config.SUFFIX``. The module has ``Writer``, ``PATH`` and ``KEYS``: the names under which
manifests say the file and its arrays.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ..config import SUFFIX


def module(name: str) -> ModuleType:
    """The module of a format by its name in requests."""
    if name not in SUFFIX:
        raise ValueError(f"format: {name!r} is not valid; allowed: {', '.join(map(repr, SUFFIX))}")
    return importlib.import_module(f".{name}", __name__)
