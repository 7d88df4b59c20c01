# From latents to generated images and their quality.
DIFFUSION = path_template("diffusion")
LEARNED_FISHER = path_template("learned_fisher")
SAMPLES = path_template("samples")
GENERATION = path_template("generation")
GENERATION_REFERENCE = path_template("generation_reference")
FDR6_REFERENCE = path_template("fdr6_reference")


rule train_diffusion:
    """Train one diffusion model on cached latents; resumes from its own state."""
    input:
        unpack(made_from("diffusion")),
    output:
        card=f"{DIFFUSION}/provenance.json",
        model=f"{DIFFUSION}/model.safetensors",
        history=f"{DIFFUSION}/history.csv",
    log:
        f"{LOGS}/train_diffusion/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/train_diffusion/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.{{fingerprint}}.tsv"
    priority: priority("diffusion")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(64000),
        runtime=minutes("diffusion", 720),
        gpu=gpus("diffusion"),
    params:
        job=job("diffusion"),
        launcher=launcher,
    shell:
        '{params.launcher} "$DIFFUSABILITY_WORKFLOW/scripts/train_diffusion.py" --job {params.job:q} --threads {threads}'
        " --minutes {resources.runtime} &> {log}"


rule measure_learned_fisher:
    """Fisher information, its rate and the MMSE rate that a trained model has learned."""
    input:
        unpack(made_from("learned_fisher")),
    output:
        card=f"{LEARNED_FISHER}/provenance.json",
        measurements=f"{LEARNED_FISHER}/measurements.json",
    log:
        f"{LOGS}/measure_learned_fisher/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_learned_fisher/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.{{fingerprint}}.tsv"
    priority: priority("learned_fisher")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(32000),
        runtime=minutes("learned_fisher", 120),
        gpu=1,
    params:
        job=job("learned_fisher"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_learned_fisher.py" --job {params.job:q} --threads {threads} &> {log}'


rule sample:
    """Generate images at one guidance scale, and follow their trajectories."""
    input:
        unpack(made_from("samples")),
    output:
        card=f"{SAMPLES}/provenance.json",
        samples=f"{SAMPLES}/samples.json",
        grid=report(
            f"{SAMPLES}/samples.png",
            caption=f"{CAPTIONS}/samples.rst",
            category="Samples",
        ),
    log:
        f"{LOGS}/sample/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/sample/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.tsv"
    priority: priority("samples")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(32000),
        runtime=minutes("samples", 240),
        gpu=1,
    params:
        job=job("samples"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/sample.py" --job {params.job:q} --threads {threads} &> {log}'


rule extract_generation_reference:
    """Extract the features of real images that samples are compared with, once for a dataset."""
    input:
        unpack(made_from("generation_reference")),
    output:
        card=f"{GENERATION_REFERENCE}/provenance.json",
        moments=f"{GENERATION_REFERENCE}/moments.safetensors",
        vectors=f"{GENERATION_REFERENCE}/vectors.safetensors",
    log:
        f"{LOGS}/extract_generation_reference/{{dataset}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/extract_generation_reference/{{dataset}}.{{fingerprint}}.tsv"
    priority: priority("generation_reference")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("generation_reference", 1440),
        gpu=1,
    params:
        job=job("generation_reference"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/extract_generation_reference.py" --job {params.job:q} --threads {threads}'
        " &> {log}"


rule compute_fdr6_reference:
    """Hold real images against each other in the six spaces of FDr6, once for a dataset."""
    input:
        unpack(made_from("fdr6_reference")),
    output:
        card=f"{FDR6_REFERENCE}/provenance.json",
        normalisers=f"{FDR6_REFERENCE}/normalisers.json",
        references=f"{FDR6_REFERENCE}/references.safetensors",
    log:
        f"{LOGS}/compute_fdr6_reference/{{dataset}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/compute_fdr6_reference/{{dataset}}.{{fingerprint}}.tsv"
    priority: priority("fdr6_reference")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("fdr6_reference", 1440),
        gpu=1,
    params:
        job=job("fdr6_reference"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/compute_fdr6_reference.py" --job {params.job:q} --threads {threads}'
        " &> {log}"


rule evaluate_generation:
    """Compare generated images with real ones."""
    input:
        unpack(made_from("generation")),
    output:
        card=f"{GENERATION}/provenance.json",
        measurements=f"{GENERATION}/measurements.json",
    log:
        f"{LOGS}/evaluate_generation/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate_generation/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.tsv"
    priority: priority("generation")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(32000),
        runtime=minutes("generation", 240),
        gpu=1,
    params:
        job=job("generation"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/evaluate_generation.py" --job {params.job:q} --threads {threads} &> {log}'
