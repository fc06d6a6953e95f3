"""From objects to the user's files: write (records and per-item files), repair, merge.

REQUIRED: receipts of the chunk's imagery and embeddings.
OUTPUTS:  items/{chunk}.json, merge.json, repairs/{chunk}-{number}.json, the receipts; the final
          files are side products.
"""


rule write:
    input:
        get_write_inputs,
    output:
        "items/{chunk}.json",
    log:
        "logs/write/{chunk}.log",
    benchmark:
        "benchmarks/write/{chunk}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=get_write_memory,
        runtime=lambda w, attempt: minutes(PLAN.chunk[w.chunk], 0.5, attempt),
    params:
        key=lambda w: PLAN.items_key(PLAN.chunk[w.chunk]),
    message:
        "Writing chunk {wildcards.chunk}"
    shell:
        "python -m rs_embed write --chunk {wildcards.chunk:q} > {log:q} 2>&1"


rule repair:
    input:
        ancient("items/{chunk}.json"),
    output:
        "repairs/{chunk}-{number}.json",
    log:
        "logs/repair/{chunk}-{number}.log",
    benchmark:
        "benchmarks/repair/{chunk}-{number}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Writing damaged files of chunk {wildcards.chunk} again"
    shell:
        "python -m rs_embed repair --chunk {wildcards.chunk:q} --number {wildcards.number:q} > {log:q} 2>&1"


rule merge:
    input:
        PLAN.items_receipts(),
    output:
        PLAN.merge_receipt,
    log:
        "logs/merge.log",
    benchmark:
        "benchmarks/merge.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        key=PLAN.merge_key,
    message:
        "Merging the run"
    shell:
        "python -m rs_embed merge > {log:q} 2>&1"
