"""The files of a run's folder: written by a start (:func:`freeze_run`), read by its jobs
(:func:`load_run`).

``<work>/runs/<run id>/`` is Snakemake's working directory of one target. ``config.yaml`` and
``rois.csv`` in it are the whole validated request, ``imagery.json`` is what the provider found for
it, and ``weights.json`` the digests of local weights: from these every job plans again. Every path
in them is relative, so a folder can be moved.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import StoreError
from ..models import get_model_info
from ..planning.plan import make_plan
from ..planning.units import Generation
from ..providers import Provider, get_provider
from ..request import rois as table
from ..request.identity import digest
from ..request.request import Request
from ..store.atomic_files import replace_file
from ..store.store import Store
from ..weights.checkpoints import Digests
from .run import Run

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
_PACKAGE_FOLDER = Path(__file__).parents[1]
_HEAD = "# The request of this run, as validated; paths are relative to this folder. Written at every start; edits are lost.\n"


def freeze_run(run: Run) -> None:
    """Write the validated request, and what was found for it, into the run's folder. Unchanged
    files are left alone."""
    run.dir.mkdir(parents=True, exist_ok=True)
    run.store.register_work_folder(run.work)
    _link_package(run.dir)
    lookups = run.provider.freeze()
    digests = run.digests.used_entries()
    texts: dict[str, str | None] = {
        ROIS: table.format_rois(run.request.spatials, run.request.names, run.plan.roi_ids, run.request.windows),
        CONFIG: _config_text(run),
        IMAGERY: _imagery_text(run, lookups),
        WEIGHTS: seal({"digests": digests}) if digests else None,
    }
    if lookups is not None and run.provider.shared:
        _share_lookups(run, lookups)
    # files without content first: a config must not be read with what was found for an earlier one
    for name, text in sorted(texts.items(), key=lambda item: item[1] is not None):
        path = run.dir / name
        if text is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != text.encode():
            replace_file(path, text.encode(), durable=True)
    if run.generation != Generation():
        write_generation(run.work, run.dir, run.generation)


def _config_text(run: Run) -> str:
    """``config.yaml``: the request with relative paths, and with what must not differ in jobs on
    other machines."""
    import yaml

    config = replace(
        run.request.config,
        work_dir=os.path.relpath(run.work, run.dir),
        store_dir=os.path.relpath(run.store.root, run.dir),
        chunk_size=run.plan.chunk_size,  # jobs on other machines must cut the table in the same way
        resume=True,  # the generation stores a resume=False from now on: reading this request must not start another
        refetch=False,
        profile=None,
    )
    target = replace(run.request.target, path=run.plan.target)
    return _HEAD + yaml.safe_dump(replace(run.request, target=target, config=config).to_config(ROIS), sort_keys=False)


def _imagery_text(run: Run, lookups: dict | None) -> str | None:
    """``imagery.json``: what the provider found, and the names of its objects; None where there is
    neither."""
    if lookups is None and not run.plan.names_by_source:
        return None
    names = {source: list(names) for source, names in run.plan.names_by_source.items()}
    return seal({"provider": lookups, "keys": names})


def _link_package(folder: Path) -> None:
    link = folder / PACKAGE / "rs_embed"
    if not link.is_symlink() or os.readlink(link) != str(_PACKAGE_FOLDER):
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(_PACKAGE_FOLDER)


def _share_lookups(run: Run, lookups: dict) -> None:
    """Add what was found out to the store's file, so that other runs on this store need not ask
    again."""
    where = shared_lookups_file(run.store.root, run.provider)
    before = read_sealed(*where).get("provider")
    before = before if isinstance(before, dict) else {}
    both = {k: {**(before[k] if isinstance(before.get(k), dict) else {}), **v} for k, v in lookups.items()}
    if both != before:
        replace_file(Path(*where), seal({"provider": both}).encode())


def load_run(folder: str | Path) -> Run:
    """The run frozen in a folder. Its request has no geometries; :meth:`Run.roi` reads them from
    the table.

    Raises:
        StoreError: the folder contains no run, or what is frozen in it is damaged.
    """
    folder = Path(folder).resolve()
    request, rows = _read_request(folder)
    imagery = read_sealed(folder, IMAGERY, job=True)
    settings = {"gee": request.gee, "stac": request.stac}
    provider = get_provider(request.backend, str(folder), imagery.get("provider"), job=True, settings=settings)
    digests = Digests(read_sealed(folder, WEIGHTS, job=True).get("digests"), str(folder), job=True)
    work, store = (_frozen_path(folder, d) for d in (request.config.work_dir, request.config.store_dir))
    generation = read_generation(work, folder)
    plan = make_plan(
        request,
        [row["id"] for row in rows],
        describe=get_model_info,
        provider=provider.identity(),
        target=request.target.path,
        generation=generation,
        boxes=[table.is_box(row) for row in rows],
        object_names=lambda plan, source: imagery.get("keys", {}).get(source.id),
        digest_of=digests.sha256,
    )
    return Run(plan, folder, work, Store(store), provider, generation, digests, rows)


def _read_request(folder: Path) -> tuple[Request, tuple[Mapping, ...]]:
    """The frozen request, and the rows of its table."""
    import yaml

    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        with open(folder / ROIS, newline="", encoding="utf-8") as file:
            rows = tuple(csv.DictReader(file))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not the folder of a run: {error.filename} is missing") from None
    # one ROI stands for all: the frozen table was validated when it was written, and a job needs
    # few of its rows
    first = table.RoiTable([table.parse_spatial(rows[0], "rois")])
    windows = table.parse_windows(rows)
    names = tuple(row["name"] for row in rows)
    return replace(Request.from_config(config, first), names=names, windows=windows), rows


def _frozen_path(folder: Path, relative: str | None) -> Path:
    if relative is None:
        raise StoreError(f"{folder / CONFIG} is damaged; start the run again")
    return Path(os.path.normpath(folder / relative))


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
