# From latents to generated images and their quality.
DIFFUSION = path_template("diffusion")
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
        mem_mb=memory(64000),
        runtime=minutes("diffusion", 720),
        gpu=gpus("diffusion"),
    params:
        job=job("diffusion"),
        launcher=launcher,
    shell:
        "{params.launcher} scripts/train_diffusion.py --job {params.job:q} --threads {threads}"
        " --minutes {resources.runtime} &> {log}"


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
        mem_mb=memory(32000),
        runtime=minutes("samples", 240),
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
        mem_mb=memory(32000),
        runtime=minutes("generation", 240),
        gpu=1,
    params:
        job=job("generation"),
    shell:
        "python scripts/evaluate_generation.py --job {params.job:q} --threads {threads} &> {log}"
