"""Snakemake's workflow profiles by the word or folder of ``ExportConfig.profile``."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError

DEFAULT = "default"
#: Files of a profile, as Snakemake (``snakemake.cli.get_profile_dir``) knows them, with the version from which it reads them.
_FILE = re.compile(r"(?:profile|config)(?:\.v(?P<since>\d+)\+)?.yaml")
#: Executors that are Snakemake's own; the module of any other one, and the extra of this package that has it.
_OWN, _PLUGIN, _EXTRAS = ("local", "dryrun", "touch"), "snakemake_executor_plugin_", ("slurm",)


@dataclass(frozen=True)
class Profile:
    """A workflow profile.

    Attributes:
        folder: that Snakemake is told.
        remote: its jobs run elsewhere (on a cluster), so that they do not end with the process that started them.
    """

    folder: Path
    remote: bool


def find_profile(name: str | None, base: str, workflow: Path, *, here: bool = True) -> Profile:
    """The profile of a name (one of the workflow's own) or of a folder, relative to ``base``; None is the default one.

    Args:
        here: it is to be used on this machine, and not only planned for.

    Raises:
        ModelError: there is none, it cannot be read, or its executor is not installed.
    """
    own = workflow / "profiles"
    given = own / DEFAULT if name is None else Path(base, os.path.expanduser(name))
    folder = own / name if name and os.sep not in name and (own / name).is_dir() else given
    path = _file(folder)
    if path is None:
        words = ", ".join(repr(p.name) for p in sorted(own.iterdir()) if p.is_dir())
        raise ModelError(f"config.profile: {name!r} is not valid; allowed: {words}, or a folder with a config.yaml")
    executor = _executor(path)
    if here and not _installed(executor):
        what = f"'rs-embed-workflow[{executor}]'" if executor in _EXTRAS else f"snakemake-executor-plugin-{executor}"
        raise ModelError(
            f"config.profile: {name or DEFAULT!r} is not valid here, because its executor {executor!r} ({path}) is not "
            f"installed; allowed: pip install {what}, or another profile"
        )
    return Profile(folder.resolve(), executor not in _OWN)


def _file(folder: Path) -> Path | None:
    """The file that Snakemake reads in a folder, if any: the one for the newest version that is not above its own."""
    from importlib.metadata import version

    try:
        names = os.listdir(folder)
    except OSError:
        return None
    since = {name: int(match["since"] or 0) for name in names if (match := _FILE.fullmatch(name))}
    mine = int(version("snakemake").partition(".")[0])
    read = [name for name in names if since.get(name, mine + 1) <= mine]
    # of equal ones the first in the folder's own order, which is Snakemake's choice, too
    return folder / max(read, key=since.get) if read else None


def _executor(path: Path) -> str:
    """The executor that a profile names."""
    import yaml

    try:
        said = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("executor")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"config.profile: {path} cannot be read ({reason}); allowed: a mapping in YAML") from None
    return "local" if said is None else os.path.expandvars(str(said))  # of the environment, as Snakemake has it


def _installed(executor: str) -> bool:
    """Snakemake, which this interpreter will run, has the executor. An expression (``__use_yte__``) is for it to find out."""
    module = f"{_PLUGIN}{executor.replace('-', '_')}"
    if executor in _OWN or executor.startswith("?"):
        return True
    return module.isidentifier() and importlib.util.find_spec(module) is not None
