"""Pixels of one part (up to 64 ROIs) of one source, into the store.

REQUIRED: the frozen request in the run's folder.
OUTPUTS:  fetch/{source}/{part}.json, the receipt; chips are side products in the store, kept over retries.
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
    resources:
        fetch=1,
        gee=gee_share(PLAN.request),
        mem_mb=1000,
        runtime=60,
    params:
        key=lambda w: PLAN.fetch_key(PLAN.source[w.source], PLAN.parts[w.part]),
    message:
        "Fetching part {wildcards.part} of {wildcards.source}"
    shell:
        "python -m rs_embed fetch --source {wildcards.source:q} --part {wildcards.part:q} > {log:q} 2>&1"
