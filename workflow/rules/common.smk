"""The run of this request, and the input functions of the rules.

REQUIRED: a config (config/config.yaml, or the file of --configfile).
DEFINES:  RUN and PLAN; every path of a rule comes from PLAN.
"""

import math
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from rs_embed.machine.devices import (
    record_gpu_decision,
    gpus_wanted,
    count_visible_gpus,
)
from rs_embed.errors import RSEmbedError
from rs_embed.planning.plan import Chunk, Part
from rs_embed.request.gee_backend import gee_share
from rs_embed.runs.cluster_queue import name_jobs
from rs_embed.stages.prepare import prepare
from rs_embed.upkeep.free_space import free_space
from rs_embed.machine.cores import count_embed_threads, set_shared_cores
from rs_embed.launch.report import print_result
from rs_embed.launch.snakefile import (
    skip_exit_delays,
    open_or_load_run,
    import_pandas_in_background,
    print_estimate,
    to_json_values,
)

if workflow.is_main_process and not workflow.overwrite_configfiles:

    # absolute, because --report reads it again from the run's folder
    configfile: str(Path("config/config.yaml").absolute())


try:
    RUN = open_or_load_run(config, main_process=workflow.is_main_process)
except RSEmbedError as error:
    raise WorkflowError(str(error)) from None

PLAN = RUN.plan

if workflow.is_main_process:
    validate(to_json_values(config), "../schemas/config.schema.yaml")


wildcard_constraints:
    chunk="[0-9]+",
    part="[0-9]+-[0-9]+",
    source="|".join(PLAN.source),
    unit="|".join(PLAN.unit),
    number="[0-9]+",


def get_chunk(wildcards) -> Chunk:
    return PLAN.chunk[wildcards.chunk]


def get_embed_inputs(wildcards) -> list[str]:
    """Receipts of the chunk's imagery for this unit."""
    return PLAN.fetch_receipts(
        get_chunk(wildcards), PLAN.unit_sources(PLAN.unit[wildcards.unit])
    )


def get_write_inputs(wildcards) -> list[str]:
    """Receipts of all fetch and embed jobs of the chunk."""
    chunk = get_chunk(wildcards)
    return PLAN.embed_receipts(chunk) + PLAN.fetch_receipts(chunk)


# Factor on the plan's seconds per ROI, on a cluster: ten times as long on a GPU; eight times on
# the 4 cores of a job.
MARGIN = 10 if gpus_wanted(PLAN.request.device) else 2


def get_embed_minutes(wildcards, attempt) -> int:
    """Time for a chunk and a model on a cluster."""
    seconds = PLAN.pace.get(wildcards.unit, 1)
    return minutes(PLAN.chunk[wildcards.chunk], MARGIN * seconds, attempt)


def minutes(span: Part | Chunk, seconds_each: float, attempt: int) -> int:
    """Time limit of a job on a cluster: generous, and longer with each attempt."""
    return attempt * math.ceil(20 + (span.stop - span.start) * seconds_each / 60)


def memory(least: int, chips: int, source: str, attempt: int) -> int:
    """MB of a job on a cluster: a minimum, and some of the source's largest chips in float32."""
    return attempt * (least + chips * PLAN.largest_chips.get(source, 0) * 4 // 10**6)


def get_fetch_memory(wildcards, attempt) -> int:
    """A chip is in memory four times at most: as received, as values, masked, and as written."""
    return memory(2000, 4 * PLAN.request.config.num_workers, wildcards.source, attempt)


def get_embed_memory(wildcards, attempt) -> int:
    """Images that wait for the network, per thread: as read, scaled and cut into tiles."""
    sources = PLAN.unit_sources(PLAN.unit[wildcards.unit])
    return max(memory(6000, 4 * 4, source, attempt) for source in sources)


def get_write_memory(wildcards, attempt) -> int:
    """Chips of one ROI for each of the two files that are written at a time."""
    return max(memory(2000, 4 * 2, source.id, attempt) for source in PLAN.sources)


# Remaining embed jobs; known once the targets are.
LEFT = {"embed": 1}


def get_embed_threads(wildcards) -> int:
    """On this machine the cores, divided among embed jobs that can run at a time; else 4."""
    cores = workflow.resource_settings.cores
    if not (workflow.is_main_process and workflow.local_exec and cores):
        return 4
    gpus = 0
    if gpus_wanted(PLAN.request.device):
        known = "gpu" in workflow.global_resources
        limit = (
            workflow.global_resources["gpu"] if known else max(1, count_visible_gpus())
        )
        gpus = getattr(limit, "value", limit)  # a number until Snakemake 9.16
    return count_embed_threads(cores, LEFT["embed"], gpus)


def get_targets(wildcards) -> list[str]:
    """Every receipt, and a repair for each chunk with damaged files. Evaluated once, in the main
    process; only a real run (not a dry run, --dag, ...) changes anything while preparing.
    """
    if workflow.local_exec and "gpu" not in workflow.global_resources:
        # without a limit Snakemake ignores a resource; a profile cannot count devices
        workflow.register_resource("gpu", max(1, count_visible_gpus()))
    set_shared_cores(workflow.resource_settings.cores if workflow.local_exec else None)
    live = workflow.executor_plugin is not None and not workflow.dryrun
    if not workflow.local_exec:
        name_jobs(workflow.executor_settings, RUN.dir)
        record_gpu_decision(PLAN.request.device)
    try:
        todo = prepare(RUN, live=live, remote=not workflow.local_exec)
        if workflow.dryrun:
            print_estimate(RUN, todo)
    except RSEmbedError as error:
        raise WorkflowError(str(error)) from None
    LEFT["embed"] = len(todo.embed)
    if live:
        import_pandas_in_background()
    wanted = [*PLAN.receipts(), PLAN.merge_receipt]
    if live and not todo.repair and all(map(os.path.exists, wanted)):
        free_space(RUN)  # without remaining jobs Snakemake calls no hook
        print_result(RUN)
    return [*wanted, *todo.repair]
