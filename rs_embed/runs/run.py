"""One run: a plan, its folders, its provider. Opened from a request, or loaded from the folder a run froze it in.

``<work>/runs/<run id>/`` is Snakemake's working directory of one target; ``config.yaml`` and ``rois.csv`` in it are the
whole validated request, ``imagery.json`` is what the provider found for it, and ``weights.json`` the digests of local weights:
from these every job plans again. Every path in them is relative, so a folder can be moved.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..engine.image_cost import seconds
from ..engine.size_checks import check_sizes
from ..errors import SpecError, StoreError
from ..machine.devices import gpus_wanted, visible_gpus
from ..models import describe
from ..planning.model_info import RANDOM
from ..planning.plan import Plan, make_plan
from ..planning.units import Generation, Source, Unit, resolve_unit
from ..providers import Provider, Roi, get_provider
from ..request import rois as table
from ..request.config import ExportModelRequest
from ..request.gee_settings import settle
from ..request.geometry import Grid, make_grid, refuse_too_large
from ..request.identity import digest
from ..request.request import Request, check_keys
from ..store.store import Store, replace_file
from ..weights.checkpoints import Checkpoint, Digests, locate
from .folders import folders, target_path

CONFIG, ROIS, IMAGERY, WEIGHTS = "config.yaml", "rois.csv", "imagery.json", "weights.json"
#: Kinds of objects that were freed after the run was finished (``upkeep/spare.py``), so that nobody misses them.
FREED = "freed.json"
#: GPUs that chunks are cut for where the machine that starts a run has none: a cluster's.
ASSUMED_GPUS = (2, 4, 8, 16)
#: Which merge the space was freed after (``upkeep/tidy.py``), so that a start with nothing to do does not look again.
TIDIED = "tidied.json"
#: Folder of a run that holds a link to this package and nothing else: it goes onto PYTHONPATH, where the whole
#: site-packages would hide the packages of a job's own software environment.
PACKAGE = ".package"
_PACKAGE_FOLDER = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """A planned run.

    Attributes:
        plan: what there is to do.
        dir: the run's folder. work: the work folder. store: fetched pixels and embeddings.
        provider: where pixels come from.
        generation: tokens of the last ``resume=False``.
        digests: of local weights files.
        rows: ROI rows of the frozen table, for a run loaded from its folder.
    """

    plan: Plan
    dir: Path
    work: Path
    store: Store
    provider: Provider
    generation: Generation
    digests: Digests
    rows: tuple[Mapping, ...] | None = None

    @property
    def request(self) -> Request:
        return self.plan.request

    def roi(self, index: int) -> Roi:
        """The ROI of a row of the table."""
        name = self.plan.names[index]
        spatial = table.spatial(self.rows[index], f"ROI {name}") if self.rows else self.request.spatials[index]
        return Roi(index, self.plan.roi_ids[index], name, spatial, self.request.window(index))

    def checkpoint(self, unit: Unit, *, download: bool = False) -> Checkpoint | None:
        """The weights of a unit, checked.

        Args:
            download: the published file, where it is not in the hub's cache: at a start, not in its jobs.

        Raises:
            ModelError: there is no such file, or it is another one than it was.
        """
        published, given = describe(unit.model).weights(unit.options), getattr(unit.options, "weights", None)
        where = {"digests": self.digests, "records": self.store.root / "weights", "download": download}
        return locate(published, given, getattr(unit.options, "seed", 0), **where)

    def grid(self, source: Source, roi: Roi) -> Grid:
        """The pixel grid of a ROI in a source.

        Raises:
            SpecError: there is none, naming the ROI.
        """
        return _grid(source, roi)

    def freeze(self) -> None:
        """Write the validated request into the run's folder, for the jobs."""
        import yaml

        self.dir.mkdir(parents=True, exist_ok=True)
        self.store.register(self.work)
        request = self.request
        target = replace(request.target, path=self.plan.target)
        relative = {
            "work_dir": os.path.relpath(self.work, self.dir),
            "store_dir": os.path.relpath(self.store.root, self.dir),
        }
        # the generation carries a resume=False from here on: whoever reads the frozen request must not begin another
        # and jobs on other machines are to cut the table as it was cut here
        sizes = {"chunk_size": self.plan.chunk_size}
        config = replace(request.config, **relative, **sizes, resume=True, refetch=False, profile=None)
        frozen = replace(request, target=target, config=config).to_config(ROIS)
        link = self.dir / PACKAGE / "rs_embed"
        if not link.is_symlink() or os.readlink(link) != str(_PACKAGE_FOLDER):
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(_PACKAGE_FOLDER)
        head = "# The request of this run, as validated; paths are relative to this folder. Written at every start; edits are lost.\n"
        texts = {
            ROIS: table.rois_text(request.spatials, request.names, self.plan.roi_ids, request.windows),
            CONFIG: head + yaml.safe_dump(frozen, sort_keys=False),
        }
        known = self.provider.freeze()
        if known is not None or self.plan.keys:
            found = {"provider": known, "keys": {k: list(v) for k, v in self.plan.keys.items()}}
            texts[IMAGERY] = _sealed(found)
            if self.provider.shared:
                self._share(known)
        else:
            (self.dir / IMAGERY).unlink(missing_ok=True)
        if digests := self.digests.frozen():
            texts[WEIGHTS] = _sealed({"digests": digests})
        else:
            (self.dir / WEIGHTS).unlink(missing_ok=True)
        for name, text in texts.items():
            path = self.dir / name
            if not path.exists() or path.read_bytes() != text.encode():
                replace_file(path, text.encode(), durable=True)
        if self.generation != Generation():
            replace_file(
                _generation_file(self.work, self.dir), json.dumps(asdict(self.generation)).encode(), durable=True
            )

    def _share(self, known: dict) -> None:
        """Tell other runs on this store what was found out, so that they need not ask again."""
        where = _shared(self.store.root, self.provider)
        before = _found(*where).get("provider")
        before = before if isinstance(before, dict) else {}
        both = {k: {**(before[k] if isinstance(before.get(k), dict) else {}), **v} for k, v in known.items()}
        if both != before:
            replace_file(Path(*where), _sealed({"provider": both}).encode())


def _shared(store: str | Path, provider: Provider) -> tuple[Path, str]:
    """Where a store keeps what a provider found out: folder and file."""
    return Path(store) / "providers", f"{digest(provider.identity(), 16)}.json"


def _sealed(found: dict) -> str:
    return json.dumps(found | {"sha256": digest(found)})


def open_run(request: Request, base: str, *, gpu: bool | None = None) -> Run:
    """Plan a request; relative paths are relative to ``base``. Writes nothing.

    Args:
        gpu: models will run on GPUs; None: as the request and this machine have it.

    Raises:
        SpecError, ModelError, ProviderError: the request cannot be met, in one sentence.
    """
    target = target_path(request, base)
    work, store, folder = folders(request, target, base)
    request = settle(request, base)
    known = _found(folder, IMAGERY).get("provider")
    provider = get_provider(request.backend, base, known, settings=_settings(request))
    if known is None and provider.shared:
        known = _found(*_shared(store, provider)).get("provider")
        provider = get_provider(request.backend, base, known, settings=_settings(request))
    models = tuple(_relative(m, base, str(folder)) for m in request.models)
    request = replace(request, backend=provider.backend(str(folder)), models=models)
    digests = Digests(_found(folder, WEIGHTS).get("digests"), str(folder))
    target = os.path.relpath(target, folder)
    generation = _read_generation(work, folder)
    if not request.config.resume:
        token = secrets.token_hex(8)
        generation = Generation(token, token if request.config.refetch else generation.chips)
    windows = [request.window(i) for i in range(len(request.spatials))]
    ids = [table.roi_id(s, w) for s, w in zip(request.spatials, windows)]
    rois = [Roi(i, *about) for i, about in enumerate(zip(ids, request.names, request.spatials, windows))]

    grids_of: dict[str, list[Grid]] = {}

    def keys(source: Source) -> list[str] | None:
        grids = grids_of[source.id] = [_grid(source, roi) for roi in rois]
        for roi, grid in zip(rois, grids):
            refuse_too_large(grid, _planes(source), f"ROI {roi.name!r}")
        more = provider.resolve(source, rois, grids, strict=not request.config.continue_on_error)
        return None if more is None else [digest([roi.id, m]) for roi, m in zip(rois, more)]

    for model in request.models:  # what is refused is refused before gigabytes are read
        resolve_unit(model, request, describe(model.name), provider.identity(), generation, lambda path: path)
    given = [(model.model_config or {}).get("weights") for model in models]
    digests.look_at(name for name in given if isinstance(name, str) and name != RANDOM)

    gpu = (gpus_wanted(request.device) > 0 if gpu is None else gpu) and request.config.save_embeddings

    def pace(unit: Unit, source: Source) -> float:
        grids = (_grid(source, roi) for roi in rois[:: max(1, len(rois) // 16)])
        output = request.output.mode
        return statistics.fmean(seconds(unit, source, output, (g.height, g.width), gpu=gpu) for g in grids)

    plan = make_plan(
        request,
        ids,
        describe=describe,
        provider=provider.identity(),
        target=target,
        generation=generation,
        keys=keys,
        digest_of=digests.of,
        chunk_size=_known_size(folder, len(rois)),
        gpus=() if not gpu else (count,) if (count := visible_gpus()) else ASSUMED_GPUS,
        pace=pace,
    )
    for unit in plan.embedded:
        check_sizes(unit, plan.names, grids_of[unit.source], strict=not request.config.continue_on_error)
    largest = {s.id: _planes(s) * max(g.height * g.width for g in grids_of[s.id]) for s in plan.sources}
    return Run(replace(plan, largest=largest), folder, work, Store(store), provider, generation, digests)


def _known_size(folder: Path, n: int) -> int | None:
    """The size of the chunks that a run of as many ROIs was cut into last: with another one, chosen on a machine with other
    devices, everything would be done again."""
    import yaml

    try:
        known = yaml.safe_load((folder / CONFIG).read_text())["export"]["chunk_size"]
        with open(folder / ROIS, newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, csv.Error):
        return None
    return known if rows == n and isinstance(known, int) and known > 0 else None


def _settings(request: Request) -> dict[str, Mapping | None]:
    """What the config says to providers, by the word of their ``backend``."""
    return {"gee": request.gee, "stac": request.stac}


def _relative(model: ExportModelRequest, base: str, folder: str) -> ExportModelRequest:
    """A model request whose weights file is given relative to the run's folder."""
    given = (model.model_config or {}).get("weights")
    if not isinstance(given, str) or given == RANDOM:
        return model
    path = os.path.join(base, os.path.expanduser(given))
    return replace(model, model_config=model.model_config | {"weights": os.path.relpath(path, folder)})


def _planes(source: Source) -> int:
    return len(source.bands) * source.frames.count


def _grid(source: Source, roi: Roi) -> Grid:
    try:
        return make_grid(roi.spatial, source.identity["projection"], source.scale_m, square=source.identity["square"])
    except SpecError as error:
        raise SpecError(f"ROI {roi.name!r}: {str(error).removeprefix('ROI: ')}") from None


def _found(folder: Path, name: str, *, job: bool = False) -> dict:
    """What was found out when the run was frozen last. Where that is damaged, a start looks again and a job stops."""
    try:
        said = json.loads((folder / name).read_text())
        if said.pop("sha256") != digest(said):
            raise ValueError
        return said
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        if job:
            raise StoreError(f"{folder / name} is damaged; start the run again") from None
    return {}


def open_config(config: Any, base: str, *, gpu: bool | None = None) -> Run:
    """Plan the request of a config mapping (a parsed config file); relative paths are relative to ``base``."""
    check_keys(config)
    return open_run(Request.from_config(config, table.read_rois(config["rois"], base)), base, gpu=gpu)


def load_run(folder: str | Path) -> Run:
    """The run frozen in a folder: what a job works on. Its request holds no places; :meth:`Run.roi` makes them from the table.

    Raises:
        StoreError: the folder holds no run.
    """
    import yaml

    folder = Path(folder).resolve()
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        with open(folder / ROIS, newline="", encoding="utf-8") as file:
            rows = tuple(csv.DictReader(file))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not the folder of a run: {error.filename} is missing") from None
    # one ROI stands in for all: the frozen table was validated when it was written, and a job needs few of its rows
    first = table.RoiTable([table.spatial(rows[0], "rois")])
    windows = table.windows(rows)
    request = replace(Request.from_config(config, first), names=tuple(r["name"] for r in rows), windows=windows)
    imagery = _found(folder, IMAGERY, job=True)
    provider = get_provider(
        request.backend, str(folder), imagery.get("provider"), job=True, settings=_settings(request)
    )
    digests = Digests(_found(folder, WEIGHTS, job=True).get("digests"), str(folder), job=True)
    work, store = (Path(os.path.normpath(folder / d)) for d in (request.config.work_dir, request.config.store_dir))
    generation = _read_generation(work, folder)
    ids = [r["id"] for r in rows]
    plan = make_plan(
        request,
        ids,
        describe=describe,
        provider=provider.identity(),
        target=request.target.path,
        generation=generation,
        keys=lambda source: imagery.get("keys", {}).get(source.id),
        digest_of=digests.of,
    )
    return Run(plan, folder, work, Store(store), provider, generation, digests, rows)


def _generation_file(work: Path, folder: Path) -> Path:
    """Beside the runs, so that a deleted run folder does not bring back what ``resume=False`` replaced."""
    return work / "generations" / f"{folder.name}.json"


def _read_generation(work: Path, folder: Path) -> Generation:
    try:
        return Generation(**json.loads(_generation_file(work, folder).read_text()))
    except FileNotFoundError:
        return Generation()
    except (ValueError, TypeError):  # damaged, so there was one: making things anew is the safe side
        return Generation(*[secrets.token_hex(8)] * 2)
