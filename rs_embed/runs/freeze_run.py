"""Freeze a run: write the validated request, and what a start found out, into the run's folder,
for its jobs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..planning.units import Generation
from ..request import rois as table
from ..store.store import replace_file
from .run import Run
from .run_files import (
    CONFIG,
    IMAGERY,
    PACKAGE,
    ROIS,
    WEIGHTS,
    read_sealed,
    seal,
    shared_lookups_file,
    write_generation,
)

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
    for name, text in texts.items():
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
    return seal(
        {"provider": lookups, "keys": {source: list(names) for source, names in run.plan.names_by_source.items()}}
    )


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
