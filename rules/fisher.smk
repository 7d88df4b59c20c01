# Fisher information on toy data: exact curves, learned ones, one table, three figures. It is a study
# of its own, studies/fisher_toy.yaml, beside whatever study the other rules work on.
from diffusability.study.fisher_toy import (
    FISHER_TOY_STUDY,
    FisherToyPlan,
    load_fisher_toy,
)
from diffusability.study.targets import FIGURE_FORMATS, FISHER_CLAIMS

try:
    TOY = FisherToyPlan(load_fisher_toy(FISHER_TOY_STUDY))
except StudyError as error:
    raise WorkflowError(str(error))
TOY_CURVE = path_template("fisher_toy")
TOY_TABLE = f"{RESULTS}/tables/{TOY.study.name}/curves.csv"
TOY_CLAIMS_TABLE = f"{RESULTS}/tables/{TOY.study.name}/claims.csv"
TOY_FIGURES = [
    f"{RESULTS}/figures/{TOY.study.name}/{name}.{kind}"
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
        job=lambda wildcards: TOY.find("fisher_toy", dict(wildcards)).job(),
    shell:
        "python scripts/make.py fisher_toy --job {params.job:q} --threads {threads}"
        " --minutes {resources.runtime} &> {log}"


rule tabulate_fisher_toy:
    """Put every curve beside that of its data, with four readings of the FIR deviation."""
    input:
        [ancient(artifact.card) for artifact in TOY],
    output:
        TOY_TABLE,
    log:
        f"{LOGS}/tabulate_fisher_toy/{TOY.study.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    params:
        study=FISHER_TOY_STUDY,
        fingerprint=TOY.fingerprint,
    shell:
        "python scripts/tabulate_fisher_toy.py --study {params.study}"
        " --fingerprint {params.fingerprint} --output {output} &> {log}"


rule draw_fisher_toy:
    """Draw activation functions and FIR deviations, exact beside learned."""
    input:
        TOY_TABLE,
    output:
        TOY_FIGURES,
    log:
        f"{LOGS}/draw_fisher_toy/{TOY.study.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    shell:
        "python scripts/draw_fisher_toy.py --table {input} --output {output} &> {log}"


rule check_fisher_claims:
    """Judge what the paper says of its toys on the exact curves and on the learned ones."""
    input:
        table=TOY_TABLE,
        claims=FISHER_CLAIMS,
    output:
        TOY_CLAIMS_TABLE,
    log:
        f"{LOGS}/check_fisher_claims/{TOY.study.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    shell:
        "python scripts/check_fisher_claims.py --table {input.table} --claims {input.claims}"
        " --output {output} &> {log}"
