"""The command line: ``rs-embed <command>`` for people, ``python -m rs_embed <step>`` for the rules.

A step works in the folder of a run (``--run``, by default the current one) and reads everything else from the request
that is frozen there, so any job can be repeated by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ModelError, RSEmbedError, StoreError

if TYPE_CHECKING:
    from .machine.cores import Share
    from .runs.run import Run

_FOLDER = "work folder (.rs_embed), a folder that holds one, or the target of an export (default: the current folder)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. An error of ours, or of a disk, is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return options.call(options) or 0
    except RSEmbedError as error:
        said = str(error)
    except OSError as error:  # a full disk, a folder that is gone
        said = f"{options.command}: {error.filename or 'a file'} cannot be used: {error.strerror or error}"
    with contextlib.suppress(OSError):  # the log may lie on the disk that is full
        print(f"error: {said}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rs-embed", description="Embeddings of many places: steps of the workflow, and helpers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def step(name: str, summary: str, *flags: str) -> None:
        sub = commands.add_parser(name, help=f"step: {summary}", description=summary)
        sub.add_argument("--run", default=".", help="folder of the run (default: the current one)")
        for flag in flags:
            sub.add_argument(flag, required=True)
        if name == "embed":
            sub.add_argument("--threads", type=int, default=1, help="CPU workers over whole batches (default: 1)")
        sub.set_defaults(call=_step)

    step("fetch", "pixels that one part lacks, and its receipt", "--source", "--part")
    step("embed", "embeddings that one chunk lacks, and its receipt", "--unit", "--chunk")
    step("write", "verify and record one chunk, make its per-item files", "--chunk")
    step("repair", "make the damaged files of one chunk again", "--chunk", "--number")
    step("merge", "the final files of the run")

    def upkeep(name: str, summary: str, call: Callable, **flags: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("folder", nargs="?", default=".", help=_FOLDER)
        for flag, text in (flags | {"json": "print one JSON object"}).items():
            sub.add_argument(f"--{flag.replace('_', '-')}", action="store_true", help=text)
        sub.set_defaults(call=lambda options: _permitted(call, options))
        return sub

    _add_plan(commands)
    upkeep("status", "what is in a work folder", _status)
    aside = "move damaged objects aside, and let the next start notice everything else that is damaged or gone"
    upkeep("verify", "read everything in a work folder and its exports; status 1 if anything is damaged or missing",
           _verify, set_aside=aside)  # fmt: skip
    prune = upkeep(
        "prune",
        "remove from the store what no run refers to",
        _prune,
        yes="remove it (without this, only say what would be removed)",
        ignore_broken="go on although the request of a run cannot be read; what it made is removed",
    )
    text = "size that a store may have, GB (1e9 bytes): above it, the oldest objects of finished exports go, too"
    prune.add_argument("--max-gb", type=_gigabytes, help=text)
    text = "the opposite: every object in a file of its own again (refused while a run uses the store)"
    upkeep("pack", "put the objects of finished chunks together into one file per chunk and model, for file quotas",
           _pack, undo=text)  # fmt: skip
    stop = upkeep("stop", "stop the live run of a work folder and cancel its jobs; what was finished is kept", _stop)
    stop.add_argument("--run", help="name of the run, as status has it, where several are live")
    models = commands.add_parser("models", help="list the models, or describe one")
    models.add_argument("model", nargs="?", help="model id or alias")
    models.set_defaults(call=_models)
    catalogue = commands.add_parser("catalogue", help="write the catalogue of a folder of rasters, for backend local:")
    catalogue.add_argument("folder")
    text = "where the files do not say it: VALUE for all, or FOLDER=VALUE (or a shell pattern); may be repeated"
    for flag in ("--collection", "--bands", "--datetime"):
        catalogue.add_argument(flag, action="append", default=[], help=f"{flag[2:]} {text}")
    catalogue.add_argument("--replace", action="store_true", help="overwrite a catalogue that is there")
    catalogue.set_defaults(call=lambda options: _permitted(_catalogue, options))
    schema = commands.add_parser("schema", help="print the JSON schema of the config file")
    schema.set_defaults(call=_schema)
    return parser


def _add_plan(commands: Any) -> None:
    sub = commands.add_parser("plan", help="what a request has left to do, and what that takes; runs nothing")
    sub.add_argument("--configfile", default="config/config.yaml", help="config file (default: config/config.yaml)")
    sub.add_argument("--gpus", type=int, help="GPUs that will work at a time (default: those of this machine)")
    sub.add_argument("--gpu", help="which GPUs, for example A100 (default: this machine's)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.set_defaults(call=_plan)


def _plan(options: argparse.Namespace) -> int:
    import yaml

    from .estimate import estimate
    from .runs.run import open_config
    from .stages.prepare import check

    try:
        with open(options.configfile, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"--configfile: {options.configfile!r} cannot be read ({reason}); allowed: a config file in YAML"
        ) from None
    run = open_config(config, os.getcwd(), gpu=True if options.gpus or options.gpu else None)
    check(run)
    found = estimate(run, gpus=options.gpus, gpu=options.gpu)
    return _say(options, found.to_dict(), [str(found)])


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; allowed: a number >= 0")
    return value


def _step(options: argparse.Namespace) -> int:
    from .machine.cores import share
    from .machine.devices import gpus_wanted
    from .runs.run import load_run

    started = time.monotonic()
    os.chdir(options.run)
    run = load_run(".")
    own = {"embed": max(1, getattr(options, "threads", 1)), "fetch": run.provider.cores}.get(options.command, 1)
    more = {
        "embed": not gpus_wanted(run.request.device),
        "write": run.plan.layout == "combined",
        "merge": True,
    }.get(options.command, False)
    with share(run.dir, own, more=more) as cores:
        counts = _stage(run, options, cores)
    print(f"{options.command}: {json.dumps(counts)} in {time.monotonic() - started:.2f} s")
    return 0


def _stage(run: Run, options: argparse.Namespace, cores: Share) -> dict:
    if options.command == "fetch":
        from .stages.fetch import fetch

        return fetch(run, options.source, options.part)
    if options.command == "embed":
        from .stages.embed import embed

        return embed(run, options.unit, options.chunk, cores)
    if options.command == "write":
        from .stages.write import write

        return write(run, options.chunk, cores)
    if options.command == "repair":
        from .stages.repair import repair

        return repair(run, options.chunk, int(options.number))
    from .stages.merge import merge

    return merge(run, cores)


def _permitted(call: Callable, options: argparse.Namespace) -> int:
    try:
        return call(options)
    except PermissionError as error:
        raise StoreError(
            f"{options.command}: {error.filename} is not yours to use ({error.strerror}); allowed: files of your own"
        ) from None


def _status(options: argparse.Namespace) -> int:
    from .upkeep import summaries as text
    from .upkeep.status import status
    from .upkeep.work_folder import open_work

    found = status(open_work(options.folder))
    return _say(options, found, text.status(found))


def _verify(options: argparse.Namespace) -> int:
    from .upkeep import summaries as text
    from .upkeep.set_aside import mend
    from .upkeep.verify import verify
    from .upkeep.work_folder import open_work

    work = open_work(options.folder)
    report = verify(work, text.progress)
    try:
        if options.set_aside and report.problems:
            mend(work, report)
    finally:  # a refusal to mend does not take back what was found
        _say(options, text.verify_json(work, report), text.verify(report))
    return int(not report.whole)


def _prune(options: argparse.Namespace) -> int:
    from .upkeep import summaries as text
    from .upkeep.prune import prune

    limit = None if options.max_gb is None else options.max_gb * 1e9
    work, waste = prune(options.folder, yes=options.yes, ignore_broken=options.ignore_broken, limit=limit)
    said = text.prune_json(work, waste, done=options.yes)
    return _say(options, said, text.prune(work, waste, done=options.yes))


def _pack(options: argparse.Namespace) -> int:
    from functools import partial

    from .upkeep import summaries as text
    from .upkeep.pack import pack, unpack
    from .upkeep.work_folder import open_work

    work = open_work(options.folder)
    done = (unpack if options.undo else pack)(work, partial(text.progress, what="pack", unit=""))
    return _say(options, text.pack_json(work, done, undo=options.undo), text.pack(work, done, undo=options.undo))


def _stop(options: argparse.Namespace) -> int:
    from .upkeep import summaries as text
    from .upkeep.stop import stop_run
    from .upkeep.work_folder import open_work

    work = open_work(options.folder)
    done = stop_run(work, options.folder, options.run)
    return _say(options, done, text.stop(work, done))


def _say(options: argparse.Namespace, found: dict, lines: Iterable[str]) -> int:
    print(json.dumps(found, allow_nan=False) if options.json else "\n".join(lines))
    return 0


def _models(options: argparse.Namespace) -> int:
    from .formats.manifest import describe as as_json
    from .models import MODELS, describe

    if options.model:
        print(json.dumps(as_json(describe(options.model)), indent=2))
        return 0
    for name in sorted({describe(m).id for m in MODELS}):
        info = describe(name)
        print(f"{info.id:12} {info.summary}" + (f" (also: {', '.join(info.aliases)})" if info.aliases else ""))
    return 0


def _catalogue(options: argparse.Namespace) -> int:
    from .providers.rasters.make_catalogue import make_catalogue

    answers = {"collections": options.collection, "bands": options.bands, "datetimes": options.datetime}
    ask = input if sys.stdin.isatty() else None
    make_catalogue(options.folder, **answers, replace=options.replace, ask=ask)
    return 0


def _schema(options: argparse.Namespace) -> int:
    from .request.schema import as_yaml

    print(as_yaml(), end="")
    return 0
