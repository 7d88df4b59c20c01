# Images, and the networks that are trained on them before any tokenizer.
DATASET = path_template("dataset")
ENCODER = path_template("encoder")


rule prepare_dataset:
    """Look at every image once: counts, split, masks, and a hash of it all."""
    output:
        card=f"{DATASET}/provenance.json",
        manifest=f"{DATASET}/manifest.json",
    log:
        f"{LOGS}/prepare_dataset/{{dataset}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_dataset/{{dataset}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 8  # every image of a folder is decoded once
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(120),
    params:
        job=job("dataset"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/prepare_dataset.py" --job {params.job:q} --threads {threads} &> {log}'


rule train_encoder:
    """Train a small network of the study's own: a target of alignment, or the judge."""
    input:
        unpack(made_from("encoder")),
    output:
        card=f"{ENCODER}/provenance.json",
        model=f"{ENCODER}/model.safetensors",
        history=f"{ENCODER}/history.csv",
    log:
        f"{LOGS}/train_encoder/{{encoder}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/train_encoder/{{encoder}}.{{fingerprint}}.tsv"
    priority: priority("encoder")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes("encoder", 240),
        gpu=1,
    params:
        job=job("encoder"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/train_encoder.py" --job {params.job:q} --threads {threads}'
        " --minutes {resources.runtime} &> {log}"
