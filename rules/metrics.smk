# The perspectives: one rule each, from latents to one file of measurements.
VELOCITY = path_template("velocity")
SEMANTICS = path_template("semantics")
SPATIAL = path_template("spatial")
SMOOTHNESS = path_template("smoothness")
RECONSTRUCTION = path_template("reconstruction")


rule measure_velocity:
    """Velocity irreducible variance (VIV): how much of the velocity no network can predict."""
    input:
        unpack(made_from("velocity")),
    output:
        card=f"{VELOCITY}/provenance.json",
        measurements=f"{VELOCITY}/measurements.json",
    params:
        job=job("velocity"),
    log:
        f"{LOGS}/measure_velocity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_velocity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    priority: 35
    resources:
        mem_mb=16000,
        runtime=120,
    shell:
        "python scripts/measure_velocity.py --job {params.job:q} --threads {threads} &> {log}"


rule measure_semantics:
    """Latent neighbour consistency (LNC): do neighbours share their class?"""
    input:
        unpack(made_from("semantics")),
    output:
        card=f"{SEMANTICS}/provenance.json",
        measurements=f"{SEMANTICS}/measurements.json",
    params:
        job=job("semantics"),
    log:
        f"{LOGS}/measure_semantics/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_semantics/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    priority: 35
    resources:
        mem_mb=16000,
        runtime=120,
    shell:
        "python scripts/measure_semantics.py --job {params.job:q} --threads {threads} &> {log}"


rule measure_spatial:
    """Spatial structure (SRSS, LDS, CDS, RMSC): do nearby cells agree?"""
    input:
        unpack(made_from("spatial")),
    output:
        card=f"{SPATIAL}/provenance.json",
        measurements=f"{SPATIAL}/measurements.json",
    params:
        job=job("spatial"),
    log:
        f"{LOGS}/measure_spatial/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_spatial/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    priority: 35
    resources:
        mem_mb=16000,
        runtime=120,
    shell:
        "python scripts/measure_spatial.py --job {params.job:q} --threads {threads} &> {log}"


rule measure_smoothness:
    """Spectral energy concentration (SEC): how much of the energy is high-frequency?"""
    input:
        unpack(made_from("smoothness")),
    output:
        card=f"{SMOOTHNESS}/provenance.json",
        measurements=f"{SMOOTHNESS}/measurements.json",
    params:
        job=job("smoothness"),
    log:
        f"{LOGS}/measure_smoothness/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_smoothness/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    priority: 35
    resources:
        mem_mb=16000,
        runtime=120,
    shell:
        "python scripts/measure_smoothness.py --job {params.job:q} --threads {threads} &> {log}"


rule measure_reconstruction:
    """What the tokenizer itself loses: PSNR, SSIM, Fréchet distance."""
    input:
        unpack(made_from("reconstruction")),
    output:
        card=f"{RECONSTRUCTION}/provenance.json",
        measurements=f"{RECONSTRUCTION}/measurements.json",
        pictures=f"{RECONSTRUCTION}/reconstructions.png",
    params:
        job=job("reconstruction"),
    log:
        f"{LOGS}/measure_reconstruction/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_reconstruction/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    priority: 35
    resources:
        mem_mb=16000,
        runtime=120,
        gpu=1,
    shell:
        "python scripts/measure_reconstruction.py --job {params.job:q} --threads {threads} &> {log}"
