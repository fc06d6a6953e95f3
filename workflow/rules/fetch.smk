"""Pixels of one part (up to 64 ROIs, or a quarter of a chunk) of one source.

REQUIRED: the frozen request in the run's folder.
OUTPUTS:  fetch/{source}/{part}.json, the receipt; chips are side products in the store,
          which retries keep.
"""


rule fetch:
    output:
        "fetch/{source}/{part}.json",
    log:
        "logs/fetch/{source}/{part}.log",
    benchmark:
        "benchmarks/fetch/{source}/{part}.tsv"
    conda:
        "../../envs/environment.yaml"
    # 0 where a job only waits for a service: models compute meanwhile, and the resource fetch
    # is the limit
    threads: RUN.provider.cores
    resources:
        fetch=1,
        gee=gee_share(PLAN.request),
        mem_mb=get_fetch_memory,
        runtime=lambda w, attempt: minutes(PLAN.parts[w.part], 2, attempt),
    params:
        key=lambda w: PLAN.fetch_key(PLAN.source[w.source], PLAN.parts[w.part]),
    message:
        "Fetching part {wildcards.part} of {wildcards.source}"
    shell:
        "python -m rs_embed fetch --source {wildcards.source:q} --part {wildcards.part:q} > {log:q} 2>&1"
