"""The files of a run's folder: their names, and the reading and writing of what a start found out.

``<work>/runs/<run id>/`` is Snakemake's working directory of one target. ``config.yaml`` and
``rois.csv`` in it are the whole validated request, ``imagery.json`` is what the provider found for
it, and ``weights.json`` the digests of local weights: from these every job plans again. Every path
in them is relative, so a folder can be moved.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path

from ..errors import StoreError
from ..planning.units import Generation
from ..providers import Provider
from ..request.identity import digest
from ..store.store import replace_file

CONFIG, ROIS, IMAGERY, WEIGHTS = "config.yaml", "rois.csv", "imagery.json", "weights.json"
#: Kinds of objects that were freed after the run was finished (``upkeep/free_space.py``), so that
#: they count as present.
FREED = "freed.json"
#: Which merge the space was freed after (``upkeep/free_space.py``), so that a start without
#: remaining jobs does not look again.
TIDIED = "tidied.json"
#: Folder of a run that contains a link to this package and nothing else: it goes onto PYTHONPATH,
#: where the whole site-packages would hide the packages of a job's own software environment.
PACKAGE = ".package"


def seal(found: dict) -> str:
    """JSON with its own digest, for :func:`read_sealed`."""
    return json.dumps(found | {"sha256": digest(found)})


def read_sealed(folder: Path, name: str, *, job: bool = False) -> dict:
    """Read a file written with :func:`seal`; empty where it is missing.

    Args:
        job: this is a job of the run. Where the file is damaged, a job stops and a start looks
            everything up again.

    Raises:
        StoreError: the file is damaged (only in a job).
    """
    try:
        found = json.loads((folder / name).read_text())
        if found.pop("sha256") != digest(found):
            raise ValueError
        return found
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        if job:
            raise StoreError(f"{folder / name} is damaged; start the run again") from None
    return {}


def shared_lookups_file(store: str | Path, provider: Provider) -> tuple[Path, str]:
    """Folder and name of the file in which a store keeps what a provider found out, for all its
    runs."""
    return Path(store) / "providers", f"{digest(provider.identity(), 16)}.json"


def write_generation(work: Path, folder: Path, generation: Generation) -> None:
    """Remember the tokens of a run's last ``resume=False``."""
    replace_file(_generation_file(work, folder), json.dumps(asdict(generation)).encode(), durable=True)


def read_generation(work: Path, folder: Path) -> Generation:
    """The tokens of a run's last ``resume=False``."""
    try:
        return Generation(**json.loads(_generation_file(work, folder).read_text()))
    except FileNotFoundError:
        return Generation()
    except (ValueError, TypeError):  # the file is damaged, so there was a token: computing everything again is safe
        return Generation(*[secrets.token_hex(8)] * 2)


def _generation_file(work: Path, folder: Path) -> Path:
    """Beside the runs, so that a deleted run folder does not bring back what ``resume=False``
    replaced."""
    return work / "generations" / f"{folder.name}.json"
