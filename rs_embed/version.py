"""The version of the package, from the metadata of its distribution."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

DISTRIBUTION = "rs-embed-workflow"
#: Version of a copy of the package that has neither metadata nor a ``pyproject.toml``.
UNKNOWN = "0+unknown"


@functools.cache
def package_version() -> str:
    """Version of the installed distribution.

    Jobs can get the package from ``PYTHONPATH`` alone, through a link. The metadata is then looked
    for in the folder that contains the package, and in a checkout the version is the one of
    ``pyproject.toml``.
    """
    import tomllib
    from importlib.metadata import distributions

    folder = Path(__file__).resolve().parents[1]
    for found in distributions(name=DISTRIBUTION, path=[*sys.path, str(folder)]):
        return found.version
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return UNKNOWN
    return str(project["version"]) if project.get("name") == DISTRIBUTION else UNKNOWN
