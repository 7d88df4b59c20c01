# Fisher information on toy data: exact curves, learned ones, one table, three figures. It is a study
# of its own, studies/fisher_toy.yaml, whatever study the other rules work on; its file is read only
# when one of these rules is wanted.
from diffusability.study.fisher_toy import FISHER_TOY, toy_plan
from diffusability.study.targets import FIGURE_FORMATS

TOY_STUDY = toy_study()
TOY_CURVE = path_template("fisher_toy")
TOY_TABLE = f"{RESULTS}/tables/{FISHER_TOY}/curves.csv"
TOY_CLAIMS_TABLE = f"{RESULTS}/tables/{FISHER_TOY}/claims.csv"
TOY_FIGURES = [
    f"{RESULTS}/figures/{FISHER_TOY}/{name}.{kind}"
    for name in ("activations", "deviation_by_parameter", "deviation_by_noise")
    for kind in FIGURE_FORMATS
]


wildcard_constraints:
    space="[^/]+",
    network="[^/]+",


rule measure_fisher_toy:
    """Compute one curve of FI, FIR and MMSE rate: by quadrature, or from a network trained here."""
    output:
        card=f"{TOY_CURVE}/provenance.json",
        curve=f"{TOY_CURVE}/curve.csv",
    log:
        f"{LOGS}/measure_fisher_toy/{{space}}.{{network}}.s{{seed}}.{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_fisher_toy/{{space}}.{{network}}.s{{seed}}.{{fingerprint}}.tsv"
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(60),
    params:
        job=lambda wildcards: toy_plan(TOY_STUDY)
        .find("fisher_toy", dict(wildcards))
        .job(),
    shell:
        "python -m diffusability.script make.py fisher_toy --job {params.job:q}"
        " --threads {threads} --minutes {resources.runtime} &> {log}"


rule tabulate_fisher_toy:
    """Put every curve beside that of its data, with four readings of the FIR deviation."""
    input:
        lambda wildcards: [ancient(artifact.card) for artifact in toy_plan(TOY_STUDY)],
    output:
        TOY_TABLE,
    log:
        f"{LOGS}/tabulate_fisher_toy/{FISHER_TOY}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    params:
        study=lambda wildcards, threads: TOY_STUDY,  # not compared, as by study_options
        fingerprint=lambda wildcards: toy_plan(TOY_STUDY).fingerprint,
    shell:
        "python -m diffusability.script tabulate_fisher_toy.py --study {params.study:q}"
        " --fingerprint {params.fingerprint} --output {output} &> {log}"


rule draw_fisher_toy:
    """Draw activation functions and FIR deviations, exact beside learned."""
    input:
        TOY_TABLE,
    output:
        TOY_FIGURES,
    log:
        f"{LOGS}/draw_fisher_toy/{FISHER_TOY}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    shell:
        "python -m diffusability.script draw_fisher_toy.py --table {input}"
        " --output {output} &> {log}"


rule check_fisher_claims:
    """Judge what the paper says of its toys on the exact curves and on the learned ones."""
    input:
        TOY_TABLE,
    output:
        TOY_CLAIMS_TABLE,
    log:
        f"{LOGS}/check_fisher_claims/{FISHER_TOY}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    params:
        claims=digest(FISHER_CLAIMS),
    shell:
        "python -m diffusability.script check_fisher_claims.py --table {input}"
        " --output {output} &> {log}"
