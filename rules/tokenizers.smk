# From images to latents.
TOKENIZER = path_template("tokenizer")
LATENTS = path_template("latents")


rule train_tokenizer:
    """Train one tokenizer; resumes from its own state after an interruption."""
    input:
        unpack(made_from("tokenizer")),
    output:
        card=f"{TOKENIZER}/provenance.json",
        model=f"{TOKENIZER}/model.safetensors",
        history=f"{TOKENIZER}/history.csv",
    log:
        f"{LOGS}/train_tokenizer/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/train_tokenizer/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("tokenizer")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(32000),
        runtime=minutes("tokenizer", 720),
        gpu=1,
    params:
        job=job("tokenizer"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/train_tokenizer.py" --job {params.job:q} --threads {threads}'
        " --minutes {resources.runtime} &> {log}"


rule cache_latents:
    """Encode every image once; the shards are a cache beside the artifact."""
    input:
        unpack(made_from("latents")),
    output:
        card=f"{LATENTS}/provenance.json",
        latents=f"{LATENTS}/latents.json",
    log:
        f"{LOGS}/cache_latents/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/cache_latents/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("latents")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(32000),
        runtime=minutes("latents", 240),
        gpu=1,
    params:
        job=job("latents"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/cache_latents.py" --job {params.job:q} --threads {threads} &> {log}'
