"""Snakemake's workflow profiles by the word or folder of ``ExportConfig.profile``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelError

DEFAULT = "default"


@dataclass(frozen=True)
class Profile:
    """A workflow profile.

    Attributes:
        folder: where its ``config.yaml`` is.
        remote: its jobs run elsewhere (on a cluster), so that they do not end with the process that started them.
    """

    folder: Path
    remote: bool


def find_profile(name: str | None, base: str, workflow: Path) -> Profile:
    """The profile of a name (one of the workflow's own) or of a folder, relative to ``base``; None is the default one.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    import yaml

    own = workflow / "profiles"
    given = own / DEFAULT if name is None else Path(base, os.path.expanduser(name))
    folder = own / name if name and os.sep not in name and (own / name).is_dir() else given
    for file in ("config.yaml", "config.v8+.yaml"):
        path = folder / file
        if not path.is_file():
            continue
        try:
            said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            executor = said.get("executor")
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"config.profile: {path} cannot be read ({reason}); allowed: a mapping in YAML") from None
        return Profile(folder.resolve(), executor not in (None, "local"))
    words = ", ".join(repr(p.name) for p in sorted(own.iterdir()) if p.is_dir())
    raise ModelError(f"config.profile: {name!r} is not valid; allowed: {words}, or a folder with a config.yaml")
