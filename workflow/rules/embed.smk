"""Embeddings of one chunk with one unit (a model with its settings). Loads the model once.

REQUIRED: receipts of the chunk's imagery.
OUTPUTS:  embed/{unit}/{chunk}.json, the receipt; embeddings are side products in the store.
"""


rule embed:
    input:
        get_embed_inputs,
    output:
        "embed/{unit}/{chunk}.json",
    log:
        "logs/embed/{unit}/{chunk}.log",
    benchmark:
        "benchmarks/embed/{unit}/{chunk}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: get_embed_threads
    resources:
        gpu=gpus_wanted(PLAN.request.device),
        mem_mb=get_embed_memory,
        runtime=get_embed_minutes,
    params:
        key=lambda w: PLAN.embed_key(PLAN.unit[w.unit], PLAN.chunk[w.chunk]),
    message:
        "Embedding chunk {wildcards.chunk} with {wildcards.unit}"
    shell:
        "python -m rs_embed embed --unit {wildcards.unit:q} --chunk {wildcards.chunk:q} --threads {threads}"
        " > {log:q} 2>&1"
