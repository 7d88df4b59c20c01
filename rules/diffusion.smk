# From latents to generated images and their quality.
DIFFUSION = path_template("diffusion")
LEARNED_FISHER = path_template("learned_fisher")
SAMPLES = path_template("samples")
GENERATION = path_template("generation")


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
    priority: 40
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=64000,
        runtime=720,
        gpu=gpus("diffusion"),
    params:
        job=job("diffusion"),
        launcher=launcher,
    shell:
        "{params.launcher} scripts/train_diffusion.py --job {params.job:q} --threads {threads}"
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
    priority: 45
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=32000,
        runtime=120,
        gpu=1,
    params:
        job=job("learned_fisher"),
    shell:
        "python scripts/measure_learned_fisher.py --job {params.job:q} --threads {threads} &> {log}"


rule sample:
    """Generate images at one guidance scale, and follow their trajectories."""
    input:
        unpack(made_from("samples")),
    output:
        card=f"{SAMPLES}/provenance.json",
        samples=f"{SAMPLES}/samples.json",
        grid=report(
            f"{SAMPLES}/samples.png",
            caption="../report/samples.rst",
            category="Samples",
        ),
    log:
        f"{LOGS}/sample/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/sample/{{tokenizer}}.s{{tokenizer_seed}}.{{backbone}}.s{{seed}}.cfg{{guidance}}.{{fingerprint}}.tsv"
    priority: 50
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=32000,
        runtime=240,
        gpu=1,
    params:
        job=job("samples"),
    shell:
        "python scripts/sample.py --job {params.job:q} --threads {threads} &> {log}"


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
    priority: 60
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=32000,
        runtime=240,
        gpu=1,
    params:
        job=job("generation"),
    shell:
        "python scripts/evaluate_generation.py --job {params.job:q} --threads {threads} &> {log}"
