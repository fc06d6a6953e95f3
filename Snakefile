"""rs_embed: embeddings of many places with remote-sensing foundation models.

    config -> plan -> fetch (source, part) -> embed (unit, chunk) -> write (chunk) -> merge (run)

Edit config/config.yaml and run `snakemake --cores 4`, or pass another file with --configfile.
All logic is in the package: the plan names every file, and each rule calls one step of it.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


workdir: str(RUN.dir)


include: "workflow/rules/fetch.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/export.smk"


# On a cluster these run where Snakemake does: they write a receipt, or the final file.
localrules:
    all,
    merge,
    repair,


if PLAN.layout == "combined":

    localrules:
        write,


rule all:
    default_target: True
    input:
        get_targets,


onsuccess:
    tidy(RUN)
    end_soon()


onerror:
    end_soon()
