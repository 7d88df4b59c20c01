# The perspectives: one rule each, from latents to one file of measurements.
VELOCITY = path_template("velocity")
SEMANTICS = path_template("semantics")
SPATIAL = path_template("spatial")
SMOOTHNESS = path_template("smoothness")
RECONSTRUCTION = path_template("reconstruction")

CONTINUITY = path_template("continuity")
UNIFORMITY = path_template("uniformity")
EQUIVARIANCE = path_template("equivariance")
GEOMETRY = path_template("geometry")
PIXEL_FISHER = path_template("pixel_fisher")
FISHER = path_template("fisher")


rule measure_velocity:
    """Velocity irreducible variance (VIV): how much of the velocity no network can predict."""
    input:
        unpack(made_from("velocity")),
    output:
        card=f"{VELOCITY}/provenance.json",
        measurements=f"{VELOCITY}/measurements.json",
    log:
        f"{LOGS}/measure_velocity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_velocity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("velocity")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("velocity"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_velocity.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_semantics:
    """Latent neighbour consistency (LNC): do neighbours share their class?"""
    input:
        unpack(made_from("semantics")),
    output:
        card=f"{SEMANTICS}/provenance.json",
        measurements=f"{SEMANTICS}/measurements.json",
    log:
        f"{LOGS}/measure_semantics/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_semantics/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("semantics")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("semantics"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_semantics.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_spatial:
    """Spatial structure (SRSS, LDS, CDS, RMSC): do nearby cells agree?"""
    input:
        unpack(made_from("spatial")),
    output:
        card=f"{SPATIAL}/provenance.json",
        measurements=f"{SPATIAL}/measurements.json",
    log:
        f"{LOGS}/measure_spatial/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_spatial/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("spatial")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("spatial"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_spatial.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_smoothness:
    """Spectral energy concentration (SEC): how much of the energy is high-frequency?"""
    input:
        unpack(made_from("smoothness")),
    output:
        card=f"{SMOOTHNESS}/provenance.json",
        measurements=f"{SMOOTHNESS}/measurements.json",
    log:
        f"{LOGS}/measure_smoothness/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_smoothness/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("smoothness")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("smoothness"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_smoothness.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_reconstruction:
    """What the tokenizer itself loses: PSNR, SSIM, Fréchet distance."""
    input:
        unpack(made_from("reconstruction")),
    output:
        card=f"{RECONSTRUCTION}/provenance.json",
        measurements=f"{RECONSTRUCTION}/measurements.json",
        pictures=report(
            f"{RECONSTRUCTION}/reconstructions.png",
            caption=f"{CAPTIONS}/reconstructions.rst",
            category="Reconstructions",
        ),
    log:
        f"{LOGS}/measure_reconstruction/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_reconstruction/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("reconstruction")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("reconstruction", 120),
        gpu=1,
    params:
        job=job("reconstruction"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_reconstruction.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_continuity:
    """iFID: are images decoded between neighbouring latents still real?"""
    input:
        unpack(made_from("continuity")),
    output:
        card=f"{CONTINUITY}/provenance.json",
        measurements=f"{CONTINUITY}/measurements.json",
        neighbours=f"{CONTINUITY}/neighbours.safetensors",
    log:
        f"{LOGS}/measure_continuity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_continuity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("continuity")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("continuity", 120),
        gpu=1,
    params:
        job=job("continuity"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_continuity.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_uniformity:
    """How evenly do single-pixel latents spread?"""
    input:
        unpack(made_from("uniformity")),
    output:
        card=f"{UNIFORMITY}/provenance.json",
        measurements=f"{UNIFORMITY}/measurements.json",
    log:
        f"{LOGS}/measure_uniformity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_uniformity/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("uniformity")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("uniformity"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_uniformity.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_equivariance:
    """Does encoding commute with rotation, scaling and flipping?"""
    input:
        unpack(made_from("equivariance")),
    output:
        card=f"{EQUIVARIANCE}/provenance.json",
        measurements=f"{EQUIVARIANCE}/measurements.json",
    log:
        f"{LOGS}/measure_equivariance/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_equivariance/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("equivariance")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("equivariance", 120),
        gpu=1,
    params:
        job=job("equivariance"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_equivariance.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_geometry:
    """Does encoding keep distances, and what spectra do latents have?"""
    input:
        unpack(made_from("geometry")),
    output:
        card=f"{GEOMETRY}/provenance.json",
        measurements=f"{GEOMETRY}/measurements.json",
        spectra=f"{GEOMETRY}/spectra.csv",
    log:
        f"{LOGS}/measure_geometry/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_geometry/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("geometry")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes("geometry", 120),
    params:
        job=job("geometry"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_geometry.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_pixel_fisher:
    """Fisher information and its rate in pixel space, which those of latents deviate from."""
    input:
        unpack(made_from("pixel_fisher")),
    output:
        card=f"{PIXEL_FISHER}/provenance.json",
        curves=f"{PIXEL_FISHER}/curves.json",
    log:
        f"{LOGS}/measure_pixel_fisher/{{dataset}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_pixel_fisher/{{dataset}}.{{fingerprint}}.tsv"
    priority: priority("pixel_fisher")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(480),
    params:
        job=job("pixel_fisher"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_pixel_fisher.py" --job {params.job:q} --threads {threads} &> {log}'


rule measure_fisher:
    """Fisher information, its rate and the MMSE rate of fits, and deviations from pixel space."""
    input:
        unpack(made_from("fisher")),
    output:
        card=f"{FISHER}/provenance.json",
        measurements=f"{FISHER}/measurements.json",
    log:
        f"{LOGS}/measure_fisher/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_fisher/{{tokenizer}}.s{{tokenizer_seed}}.{{fingerprint}}.tsv"
    priority: priority("fisher")
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=fixed_minutes(120),
    params:
        job=job("fisher"),
    shell:
        'python "$DIFFUSABILITY_WORKFLOW/scripts/measure_fisher.py" --job {params.job:q} --threads {threads} &> {log}'
