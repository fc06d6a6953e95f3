"""Snakemake's workflow profiles by the word or folder of ``ExportConfig.profile``."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError

DEFAULT = "default"
#: Files of a profile, as in ``snakemake.cli.get_profile_dir``, with the Snakemake version from
#: which each is read.
_FILE = re.compile(r"(?:profile|config)(?:\.v(?P<since>\d+)\+)?.yaml")
#: Snakemake's built-in executors; prefix of the modules of others; those that an extra of this
#: package installs.
_BUILT_IN, _PLUGIN, _EXTRAS = ("local", "dryrun", "touch"), "snakemake_executor_plugin_", ("slurm",)


@dataclass(frozen=True)
class Profile:
    """A workflow profile.

    Attributes:
        folder: argument of Snakemake's ``--workflow-profile``.
        remote: its jobs run on a cluster, so that they do not end with the process that started
            them.
    """

    folder: Path
    remote: bool


def find_profile(name: str | None, base: str, workflow: Path, *, here: bool = True) -> Profile:
    """The profile with a name (one of the workflow's own) or in a folder, relative to ``base``;
    None is the default one.

    Args:
        here: jobs will be started from this machine, so its executor must be installed.

    Raises:
        ModelError: it does not exist, it cannot be read, or its executor is not installed.
    """
    own = workflow / "profiles"
    given = own / DEFAULT if name is None else Path(base, os.path.expanduser(name))
    folder = own / name if name and os.sep not in name and (own / name).is_dir() else given
    path = _find_file(folder)
    if path is None:
        words = ", ".join(repr(p.name) for p in sorted(own.iterdir()) if p.is_dir())
        raise ModelError(f"config.profile: {name!r} is not valid; allowed: {words}, or a folder with a config.yaml")
    executor = _read_executor(path)
    if here and not _is_installed(executor):
        what = f"'rs-embed-workflow[{executor}]'" if executor in _EXTRAS else f"snakemake-executor-plugin-{executor}"
        raise ModelError(
            f"config.profile: {name or DEFAULT!r} cannot be used, because its executor {executor!r} ({path}) is not "
            f"installed; allowed: pip install {what}, or another profile"
        )
    return Profile(folder.resolve(), executor not in _BUILT_IN)


def _find_file(folder: Path) -> Path | None:
    """The file that Snakemake reads in a folder, if any: that of the newest version which is not
    above Snakemake's."""
    from importlib.metadata import version

    try:
        names = os.listdir(folder)
    except OSError:
        return None
    since = {name: int(match["since"] or 0) for name in names if (match := _FILE.fullmatch(name))}
    current = int(version("snakemake").partition(".")[0])
    read = [name for name in names if since.get(name, current + 1) <= current]
    # of equal versions the first in the folder's order, as in Snakemake
    return folder / max(read, key=lambda name: since[name]) if read else None


def _read_executor(path: Path) -> str:
    """The executor that a profile names."""
    import yaml

    try:
        executor = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("executor")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"config.profile: {path} cannot be read ({reason}); allowed: a mapping in YAML") from None
    return "local" if executor is None else os.path.expandvars(str(executor))  # as in Snakemake


def _is_installed(executor: str) -> bool:
    """Whether the Snakemake of this interpreter has the executor. An expression (``__use_yte__``)
    is left to Snakemake."""
    module = f"{_PLUGIN}{executor.replace('-', '_')}"
    if executor in _BUILT_IN or executor.startswith("?"):
        return True
    return module.isidentifier() and importlib.util.find_spec(module) is not None
