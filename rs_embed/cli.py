"""The command line: ``rs-embed <command>`` for users, ``python -m rs_embed <step>`` for the rules
of the workflow.

A step works in a run folder (``--run``, by default the current folder) and reads everything else
from the frozen request in it, so any job can be repeated by hand.
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
    from .machine.cores import CoreShare
    from .runs.run import Run

_FOLDER = (
    "work folder (.rs_embed), a folder that contains one, or the target of an export (default: the current folder)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. Errors of this package and of files are one line
    on stderr."""
    options = _make_parser().parse_args(arguments)
    try:
        return int(options.call(options) or 0)
    except RSEmbedError as error:
        message = str(error)
    except OSError as error:  # a full disk, a missing folder
        message = f"{options.command}: {error.filename or 'a file'} cannot be used: {error.strerror or error}"
    with contextlib.suppress(OSError):  # stderr may be a file on the full disk
        print(f"error: {message}", file=sys.stderr)
    return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rs-embed", description="Embeddings of many ROIs: the steps of the workflow, and commands around it."
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_steps(commands)
    _add_plan(commands)
    _add_upkeep(commands)
    _add_helpers(commands)
    return parser


class _PrintVersion(argparse.Action):
    """Like ``version``, but looks the version up only when it is printed."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        from .version import DISTRIBUTION, package_version

        print(DISTRIBUTION, package_version())
        parser.exit()


def _add_steps(commands: Any) -> None:
    def step(name: str, summary: str, *flags: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=f"step: {summary}", description=summary)
        sub.add_argument("--run", default=".", help="run folder (default: the current folder)")
        for flag in flags:
            sub.add_argument(flag, required=True)
        sub.set_defaults(call=_run_step)
        return sub

    step("fetch", "fetch the missing pixels of one part", "--source", "--part")
    embed = step("embed", "compute the missing embeddings of one chunk", "--unit", "--chunk")
    embed.add_argument("--threads", type=int, default=1, help="CPU workers over whole batches (default: 1)")
    step("write", "verify and record one chunk, and write its per_item files", "--chunk")
    step("repair", "write the damaged files of one chunk again", "--chunk", "--number")
    step("merge", "write the final files of the run")


def _add_plan(commands: Any) -> None:
    sub = commands.add_parser("plan", help="estimate the remaining jobs of a request and what they cost; runs nothing")
    sub.add_argument("--configfile", default="config/config.yaml", help="config file (default: config/config.yaml)")
    sub.add_argument("--gpus", type=int, help="number of GPUs used at the same time (default: those of this machine)")
    sub.add_argument("--gpu", help="model of the GPUs, for example A100 (default: that of this machine)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.set_defaults(call=_plan)


def _add_upkeep(commands: Any) -> None:
    def upkeep(name: str, summary: str, call: Callable[..., Any], **flags: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("folder", nargs="?", default=".", help=_FOLDER)
        for flag, text in (flags | {"json": "print one JSON object"}).items():
            sub.add_argument(f"--{flag.replace('_', '-')}", action="store_true", help=text)
        sub.set_defaults(call=lambda options: _with_permission_errors(call, options))
        return sub

    upkeep("status", "list the runs and the store of a work folder", _status)
    aside = "move damaged objects aside, and let the next start find everything else that is damaged or missing"
    summary = "read everything in a work folder and its exports; status 1 if anything is damaged or missing"
    upkeep("verify", summary, _verify, set_aside=aside)
    prune = upkeep(
        "prune",
        "remove from the store what no run refers to",
        _prune,
        yes="remove it (without this flag, only list it)",
        ignore_broken="continue although the request of a run cannot be read; the objects of that run are removed",
    )
    limit = "most bytes of a store, GB (1e9 bytes): above it, the oldest objects of finished exports are removed, too"
    prune.add_argument("--max-gb", type=_gigabytes, help=limit)
    summary = "put the objects of finished chunks together into one file per chunk and model, for file quotas"
    undo = "the opposite: put every object into a file of its own (refused while a run uses the store)"
    upkeep("pack", summary, _pack, undo=undo)
    stop = upkeep("stop", "stop the live run of a work folder and cancel its jobs; finished work is kept", _stop)
    stop.add_argument("--run", help="name of the run, as status prints it, if several runs are live")


def _add_helpers(commands: Any) -> None:
    models = commands.add_parser("models", help="list the models, or describe one")
    models.add_argument("model", nargs="?", help="model id or alias")
    models.set_defaults(call=_models)
    catalogue = commands.add_parser("catalogue", help="write the catalogue of a folder of rasters, for backend local:")
    catalogue.add_argument("folder")
    text = "of files without it in their metadata: VALUE for all, or FOLDER=VALUE (or a shell pattern); may be repeated"
    for flag in ("--collection", "--bands", "--datetime"):
        catalogue.add_argument(flag, action="append", default=[], help=f"{flag[2:]} {text}")
    catalogue.add_argument("--replace", action="store_true", help="overwrite an existing catalogue")
    catalogue.set_defaults(call=lambda options: _with_permission_errors(_catalogue, options))
    commands.add_parser("schema", help="print the JSON schema of the config file").set_defaults(call=_schema)


def _plan(options: argparse.Namespace) -> int:
    import yaml

    from .estimate import estimate
    from .runs.open_run import open_config
    from .stages.prepare import check_target

    try:
        with open(options.configfile, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"--configfile: {options.configfile!r} cannot be read ({reason}); allowed: a config file in YAML"
        ) from None
    run = open_config(config, os.getcwd(), gpu=True if options.gpus or options.gpu else None)
    check_target(run)
    result = estimate(run, gpus=options.gpus, gpu=options.gpu)
    return _print_result(options, result.to_dict(), [str(result)])


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; allowed: a number >= 0")
    return value


def _run_step(options: argparse.Namespace) -> int:
    from .machine.cores import share_cores
    from .machine.devices import gpus_wanted
    from .runs.run_files import load_run

    started = time.monotonic()
    os.chdir(options.run)
    run = load_run(".")
    own = {"embed": max(1, getattr(options, "threads", 1)), "fetch": run.provider.cores}.get(options.command, 1)
    is_combined = run.plan.layout == "combined"
    more = {"embed": not gpus_wanted(run.request.device), "write": is_combined, "merge": True}
    with share_cores(run.dir, own, can_use_more=more.get(options.command, False)) as cores:
        counts = _call_stage(run, options, cores)
    print(f"{options.command}: {json.dumps(counts)} in {time.monotonic() - started:.2f} s")
    return 0


def _call_stage(run: Run, options: argparse.Namespace, cores: CoreShare) -> dict[str, Any]:
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


def _with_permission_errors(call: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        return call(options)
    except PermissionError as error:
        raise StoreError(
            f"{options.command}: {error.filename} cannot be accessed ({error.strerror}); allowed: files that you may read and write"
        ) from None


def _status(options: argparse.Namespace) -> int:
    from .upkeep import summaries
    from .upkeep.status import collect_status
    from .upkeep.work_folder import open_work_folder

    result = collect_status(open_work_folder(options.folder))
    return _print_result(options, result, summaries.status_lines(result))


def _verify(options: argparse.Namespace) -> int:
    from .upkeep import summaries
    from .upkeep.set_aside import set_damage_aside
    from .upkeep.verify import verify
    from .upkeep.work_folder import open_work_folder

    work = open_work_folder(options.folder)
    report = verify(work, summaries.progress_bar)
    try:
        if options.set_aside and report.problems:
            set_damage_aside(work, report)
    finally:  # the report is printed even if the repair is refused
        _print_result(options, summaries.verify_json(work, report), summaries.verify_lines(report))
    return int(not report.is_whole)


def _prune(options: argparse.Namespace) -> int:
    from .upkeep import summaries
    from .upkeep.prune import prune

    limit = None if options.max_gb is None else options.max_gb * 1e9
    work, prunable = prune(options.folder, yes=options.yes, ignore_broken=options.ignore_broken, limit=limit)
    result = summaries.prune_json(work, prunable, done=options.yes)
    return _print_result(options, result, summaries.prune_lines(work, prunable, done=options.yes))


def _pack(options: argparse.Namespace) -> int:
    from functools import partial

    from .upkeep import summaries
    from .upkeep.pack import pack, unpack
    from .upkeep.work_folder import open_work_folder

    work = open_work_folder(options.folder)
    done = (unpack if options.undo else pack)(work, partial(summaries.progress_bar, what="pack", unit=""))
    result = summaries.pack_json(work, done, undo=options.undo)
    return _print_result(options, result, summaries.pack_lines(work, done, undo=options.undo))


def _stop(options: argparse.Namespace) -> int:
    from .upkeep import summaries
    from .upkeep.stop import stop_run
    from .upkeep.work_folder import open_work_folder

    work = open_work_folder(options.folder)
    done = stop_run(work, options.folder, options.run)
    return _print_result(options, done, summaries.stop_lines(work, done))


def _print_result(options: argparse.Namespace, result: dict[str, Any], lines: Iterable[str]) -> int:
    print(json.dumps(result, allow_nan=False) if options.json else "\n".join(lines))
    return 0


def _models(options: argparse.Namespace) -> int:
    from .formats.manifest import describe_model as as_json
    from .models import MODELS, get_model_info

    if options.model:
        print(json.dumps(as_json(get_model_info(options.model)), indent=2))
        return 0
    for name in sorted({get_model_info(m).id for m in MODELS}):
        info = get_model_info(name)
        print(f"{info.id:12} {info.summary}" + (f" (also: {', '.join(info.aliases)})" if info.aliases else ""))
    return 0


def _catalogue(options: argparse.Namespace) -> int:
    from .providers.rasters.make_catalogue import make_catalogue

    answers = {"collections": options.collection, "bands": options.bands, "datetimes": options.datetime}
    ask = input if sys.stdin.isatty() else None
    make_catalogue(options.folder, **answers, replace=options.replace, ask=ask)
    return 0


def _schema(options: argparse.Namespace) -> int:
    from .request.schema import format_schema

    print(format_schema(), end="")
    return 0
