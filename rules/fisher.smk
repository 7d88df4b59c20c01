# Fisher information on toy data: from exact and learned curves to one table and four figures. It is a
# study of its own, studies/fisher_toy.yaml, independent of the study of the other rules; its file is
# read only if one of these rules is needed. Its curves are made by a rule of stages.smk.
from diffusability.study.fisher_toy import FISHER_TOY, TOY_FIGURES, toy_plan
from diffusability.study.planning.figures import FIGURE_FORMATS

TOY_TABLE = f"{RESULTS}/tables/{FISHER_TOY}/curves.csv"
TOY_CLAIMS_TABLE = f"{RESULTS}/tables/{FISHER_TOY}/claims.csv"
TOY_FIGURE_FILES = [
    f"{RESULTS}/figures/{FISHER_TOY}/{name}.{kind}"
    for name in TOY_FIGURES
    for kind in FIGURE_FORMATS
]


rule tabulate_fisher_toy:
    """Collect every curve with that of its data and four forms of the FIR deviation."""
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
    """Draw activation functions and FIR deviations, exact and learned."""
    input:
        TOY_TABLE,
    output:
        TOY_FIGURE_FILES,
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
    """Test the paper's claims on toy data with the exact and the learned curves."""
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
